"""Normalisations, softmax, sums and means over axes, and pooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from aigc_edge.compress.trainable.node import OPERATORS, Node, Operator, numbers


@OPERATORS.register("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    over = tuple(range(2, x.ndim))
    shape = (1, -1, *[1] * (x.ndim - 2))
    centred = x - x.mean(over, keepdim=True)
    spread = centred.square().mean(over, keepdim=True)
    return centred * torch.rsqrt(spread + node.get("epsilon", 1e-5)) * scale.reshape(shape) + bias.reshape(shape)


@OPERATORS.register("GroupNormalization")
def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.get("num_groups")
    if node.opset < 21:  # a scale for each group
        scale, bias = (value.repeat_interleave(x.shape[1] // groups) for value in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@OPERATORS.register("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if len(node.outputs) > 1:
        raise node.unsupported("more than one output")
    axis = node.get("axis", -1) % x.ndim
    return functional.layer_norm(x, x.shape[axis:], None, None, node.get("epsilon", 1e-5)) * scale + (0 if bias is None else bias)


@OPERATORS.register("RMSNormalization")
def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    over = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(over, keepdim=True) + node.get("epsilon", 1e-5)) * scale


@OPERATORS.register("BatchNormalization")
def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    factor = scale * torch.rsqrt(var + node.get("epsilon", 1e-5))
    return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


def _reduced(function: Callable[..., Tensor], node: Node, x: Tensor, axes: Tensor | None) -> Tensor:
    over = node.get("axes") if axes is None else numbers(axes)
    if not over and node.get("noop_with_empty_axes", 0):
        return x
    return function(x, tuple(over or range(x.ndim)), keepdim=bool(node.get("keepdims", 1)))


def _product(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _window(node: Node) -> tuple[list[int], list[int], list[int]]:
    kernel = list(node.get("kernel_shape"))
    places = len(kernel)
    pads = list(node.get("pads", [0] * (2 * places)))
    odd = pads[:places] != pads[places:] or node.get("ceil_mode", 0) or node.get("auto_pad", "NOTSET") != "NOTSET"
    if odd or places != 2 or set(node.get("dilations", [1])) != {1}:
        raise node.unsupported("a window that is dilated, padded unevenly or not of two axes")
    return kernel, list(node.get("strides", [1] * places)), pads[:places]


_OPERATORS: dict[str, Operator] = {
    "AveragePool": lambda node, x: functional.avg_pool2d(
        x, *_window(node), count_include_pad=bool(node.get("count_include_pad", 0))
    ),
    "GlobalAveragePool": lambda node, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "LogSoftmax": lambda node, x: torch.log_softmax(x, node.get("axis", -1)),
    "MaxPool": lambda node, x: functional.max_pool2d(x, *_window(node)),
    "ReduceL2": lambda node, x, axes=None: _reduced(torch.sum, node, x.square(), axes).sqrt(),
    "ReduceMax": lambda node, x, axes=None: _reduced(torch.amax, node, x, axes),
    "ReduceMean": lambda node, x, axes=None: _reduced(torch.mean, node, x, axes),
    "ReduceProd": lambda node, x, axes=None: _reduced(_product, node, x, axes),
    "ReduceSum": lambda node, x, axes=None: _reduced(torch.sum, node, x, axes),
    "ReduceSumSquare": lambda node, x, axes=None: _reduced(torch.sum, node, x.square(), axes),
    "Softmax": lambda node, x: torch.softmax(x, node.get("axis", -1)),
}
for _name, _operator in _OPERATORS.items():
    OPERATORS.register(_name)(_operator)
