"""Normalisations, softmax, sums and means over axes, and pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_edge.compress.trainable.node import OPERATORS, Node, numbers


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
    return nn.functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@OPERATORS.register("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if len(node.outputs) > 1:
        raise node.unsupported("more than one output")
    axis = node.get("axis", -1) % x.ndim
    return nn.functional.layer_norm(x, x.shape[axis:], None, None, node.get("epsilon", 1e-5)) * scale + (
        0 if bias is None else bias
    )


@OPERATORS.register("RMSNormalization")
def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    over = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(over, keepdim=True) + node.get("epsilon", 1e-5)) * scale


@OPERATORS.register("BatchNormalization")
def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    factor = scale * torch.rsqrt(var + node.get("epsilon", 1e-5))
    return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


@OPERATORS.register("Softmax")
def _softmax(node: Node, x: Tensor) -> Tensor:
    return torch.softmax(x, node.get("axis", -1))


@OPERATORS.register("LogSoftmax")
def _log_softmax(node: Node, x: Tensor) -> Tensor:
    return torch.log_softmax(x, node.get("axis", -1))


def _axes(node: Node, x: Tensor, axes: Tensor | None) -> tuple[int, ...]:
    reduced = node.get("axes") if axes is None else numbers(axes)
    if not reduced:
        return () if node.get("noop_with_empty_axes", 0) else tuple(range(x.ndim))
    return tuple(reduced)


@OPERATORS.register("ReduceMean")
def _reduce_mean(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = _axes(node, x, axes)
    return x.mean(over, keepdim=bool(node.get("keepdims", 1))) if over else x


def _sum(node: Node, x: Tensor, axes: Tensor | None) -> Tensor:
    over = _axes(node, x, axes)
    return x.sum(over, keepdim=bool(node.get("keepdims", 1))) if over else x


@OPERATORS.register("ReduceSum")
def _reduce_sum(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return _sum(node, x, axes)


@OPERATORS.register("ReduceSumSquare")
def _reduce_sum_square(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return _sum(node, x.square(), axes)


@OPERATORS.register("ReduceL2")
def _reduce_l2(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return _sum(node, x.square(), axes).sqrt()


@OPERATORS.register("ReduceMax")
def _reduce_max(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = _axes(node, x, axes)
    return x.amax(over, keepdim=bool(node.get("keepdims", 1))) if over else x


@OPERATORS.register("ReduceProd")
def _reduce_prod(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    for axis in sorted((a % x.ndim for a in _axes(node, x, axes)), reverse=True):
        x = x.prod(axis, keepdim=bool(node.get("keepdims", 1)))
    return x


@OPERATORS.register("GlobalAveragePool")
def _global_average(node: Node, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _window(node: Node) -> tuple[list[int], list[int], list[int]]:
    kernel = list(node.get("kernel_shape"))
    places = len(kernel)
    pads = list(node.get("pads", [0] * (2 * places)))
    odd = pads[:places] != pads[places:] or node.get("ceil_mode", 0) or node.get("auto_pad", "NOTSET") != "NOTSET"
    if odd or places != 2 or set(node.get("dilations", [1])) != {1}:
        raise node.unsupported("a window that is dilated, padded unevenly or not of two axes")
    return kernel, list(node.get("strides", [1] * places)), pads[:places]


@OPERATORS.register("AveragePool")
def _average_pool(node: Node, x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x, *_window(node), count_include_pad=bool(node.get("count_include_pad", 0)))


@OPERATORS.register("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Tensor:
    return nn.functional.max_pool2d(x, *_window(node))
