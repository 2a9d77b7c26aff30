"""Convolutions and matrix products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigc_edge.compress.trainable.node import OPERATORS, Node


def _pads(node: Node, places: int) -> list[int]:
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.unsupported(f"auto_pad={node.get('auto_pad')}")
    pads = node.get("pads", [0] * (2 * places))
    return [0] * (2 * places) if node.get("auto_pad") == "VALID" else list(pads)


def _sides(pads: list[int]) -> list[int]:
    """In torch's order: the last axis first, both of its sides together."""
    places = len(pads) // 2
    return [side for axis in reversed(range(places)) for side in (pads[axis], pads[axis + places])]


@OPERATORS.register("Conv")
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    places = weight.ndim - 2
    pads = _pads(node, places)
    if pads[:places] != pads[places:]:
        x, pads = nn.functional.pad(x, _sides(pads)), [0] * (2 * places)
    stride, dilation = (node.get(name, [1] * places) for name in ("strides", "dilations"))
    function = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[places - 1]
    result: Tensor = function(x, weight, bias, stride, pads[:places], dilation, node.get("group", 1))
    return result


@OPERATORS.register("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    places = weight.ndim - 2
    pads = _pads(node, places)
    if node.get("output_shape"):
        raise node.unsupported("output_shape")
    extra, stride, dilation = (node.get(n, [d] * places) for n, d in (("output_padding", 0), ("strides", 1), ("dilations", 1)))
    function = (nn.functional.conv_transpose1d, nn.functional.conv_transpose2d, nn.functional.conv_transpose3d)[places - 1]
    if pads[:places] == pads[places:]:
        result: Tensor = function(x, weight, bias, stride, pads[:places], extra, node.get("group", 1), dilation)
        return result
    result = function(x, weight, bias, stride, 0, extra, node.get("group", 1), dilation)
    return nn.functional.pad(result, [-side for side in _sides(pads)])


@OPERATORS.register("Gemm")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    result = node.get("alpha", 1.0) * (a @ b)
    return result if c is None else result + node.get("beta", 1.0) * c


OPERATORS.register("MatMul")(lambda node, a, b: a @ b)
OPERATORS.register("Einsum")(lambda node, *values: torch.einsum(node.get("equation"), *values))
