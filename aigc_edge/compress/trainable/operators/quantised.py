"""Quantise and dequantise with straight-through gradients (Bengio et al. 2013, arXiv 1308.3432): rounding counts as the identity.

What leaves the range of the type is clamped, with the gradient that clamping has. Codes are float tensors of whole numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aigc_edge.compress.trainable.node import OPERATORS, Node

E4M3 = 17
RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 6: (-(2**31), 2**31 - 1), 21: (0, 15), 22: (-8, 7)}
_LARGEST = 448.0  # of E4M3


def rounded(values: Tensor, kind: int) -> Tensor:
    """`values` rounded to the element type `kind` of ONNX and clamped to it; the gradient is that of clamping."""
    if kind == E4M3:
        held = values.clamp(-_LARGEST, _LARGEST)
        return held + (held.to(torch.float8_e4m3fn).to(values.dtype) - held).detach()
    low, high = RANGES[kind]
    held = values.clamp(low, high)
    return held + (torch.round(held) - held).detach()


def fit(node: Node, scale: Tensor, like: Tensor) -> Tensor:
    """`scale`, one for all, one a channel of the node's axis, or one a block of it, in a shape that broadcasts with `like`."""
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(())
    axis = node.get("axis", 1) % like.ndim
    if node.get("block_size", 0):
        return scale.repeat_interleave(node.get("block_size"), axis).narrow(axis, 0, like.shape[axis])
    return scale.reshape([-1 if i == axis else 1 for i in range(like.ndim)])


@OPERATORS.register("QuantizeLinear")
def _quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = node.get("output_dtype", 0) or node.get("zero_kind", 2)
    if kind != E4M3 and kind not in RANGES:
        raise node.unsupported(f"the element type {kind}")
    values = x / fit(node, scale, x)
    return rounded(values if zero is None else values + fit(node, zero, x).to(x.dtype), kind)


@OPERATORS.register("DequantizeLinear")
def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    codes = x.to(scale.dtype)
    return (codes if zero is None else codes - fit(node, zero, codes).to(scale.dtype)) * fit(node, scale, codes)
