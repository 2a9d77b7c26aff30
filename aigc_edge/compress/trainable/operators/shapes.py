"""Operators that move, cut and join values, and those that compute with shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from aigc_edge.compress.trainable.node import OPERATORS, Node, Operator, numbers


@OPERATORS.register("Reshape")
def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = numbers(shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@OPERATORS.register("Unsqueeze")
def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    new = list(node.get("axes") or numbers(axes))
    for axis in sorted(a % (x.ndim + len(new)) for a in new):
        x = x.unsqueeze(axis)
    return x


@OPERATORS.register("Squeeze")
def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    removed = list(node.get("axes") or numbers(axes)) or [a for a, size in enumerate(x.shape) if size == 1]
    for axis in sorted((a % x.ndim for a in removed), reverse=True):
        x = x.squeeze(axis)
    return x


@OPERATORS.register("Split")
def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0)
    parts = list(node.get("split") or numbers(sizes)) or -(-x.shape[axis] // len(node.outputs))
    return torch.split(x, parts, axis)


@OPERATORS.register("Slice")
def _slice_(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    firsts, lasts = numbers(starts), numbers(ends)
    over = numbers(axes) if axes is not None else list(range(len(firsts)))
    for axis, first, last, step in zip(over, firsts, lasts, numbers(steps) or [1] * len(firsts), strict=True):
        size = x.shape[axis]
        if step < 0:
            chosen = torch.tensor(range(size)[slice(first, None if last < -size else last, step)], dtype=torch.int64)
            x = x.index_select(axis, chosen)
        else:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(*slice(first, last, step).indices(size)),)]
    return x


@OPERATORS.register("Gather")
def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    result = x.index_select(axis, index.reshape(-1).long())
    return result.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@OPERATORS.register("GatherElements")
def _gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index).long())


@OPERATORS.register("Constant")
def _constant(node: Node) -> Tensor:
    for name, kind in (("value_float", torch.float32), ("value_floats", torch.float32), ("value_int", torch.int64)):
        if node.get(name) is not None:
            return torch.tensor(node.get(name), dtype=kind)
    if node.get("value_ints") is not None:
        return torch.tensor(list(node.get("value_ints")), dtype=torch.int64)
    if node.get("value") is None:
        raise node.unsupported("a constant that is no number")
    return torch.from_numpy(np.array(numpy_helper.to_array(node.get("value"))))


@OPERATORS.register("ConstantOfShape")
def _constant_of_shape(node: Node, sizes: Tensor) -> Tensor:
    value = node.get("value")
    item = np.zeros(1, np.float32) if value is None else np.array(numpy_helper.to_array(value))
    return torch.from_numpy(item).reshape(-1)[0].expand(numbers(sizes)).clone()


@OPERATORS.register("Pad")
def _pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    over = [axis % x.ndim for axis in numbers(axes)] if axes is not None else list(range(x.ndim))
    sides = dict(zip(over, zip(*np.reshape(numbers(pads), (2, -1)).tolist(), strict=True), strict=True))
    kinds = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = kinds[node.get("mode", "constant")]
    first = 0 if mode == "constant" else 2
    if any(sides.get(axis, (0, 0)) != (0, 0) for axis in range(first)):
        raise node.unsupported(f"padding of the first two axes in mode {mode}")
    flat = [side for axis in reversed(range(first, x.ndim)) for side in sides.get(axis, (0, 0))]
    return nn.functional.pad(x, flat, mode, *([0.0 if value is None else value.item()] if mode == "constant" else []))


@OPERATORS.register("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block, (n, c, h, w) = node.get("blocksize"), x.shape
    if node.get("mode", "DCR") == "CRD":
        return nn.functional.pixel_shuffle(x, block)
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


@OPERATORS.register("SpaceToDepth")
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block, (n, c, h, w) = node.get("blocksize"), x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


_OPERATORS: dict[str, Operator] = {
    "Concat": lambda node, *values: torch.cat(values, node.get("axis")),
    "Expand": lambda node, x, shape: x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(numbers(shape)))),
    "Flatten": lambda node, x: x.reshape(math.prod(x.shape[: node.get("axis", 1)]), -1),
    "Range": lambda node, start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),
    "Shape": lambda node, x: torch.tensor(list(x.shape)[slice(node.get("start", 0), node.get("end"))], dtype=torch.int64),
    "Size": lambda node, x: torch.tensor(x.numel(), dtype=torch.int64),
    "Tile": lambda node, x, repeats: x.repeat(*numbers(repeats)),
    "Transpose": lambda node, x: x.permute(*node.get("perm", list(range(x.ndim))[::-1])),
}
for _name, _operator in _OPERATORS.items():
    OPERATORS.register(_name)(_operator)
