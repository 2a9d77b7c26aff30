"""Resize: nearest and linear, axis by axis, by indices and weights that follow the ONNX definition."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from aigc_edge.compress.trainable.node import OPERATORS, Node, numbers


@OPERATORS.register("Resize")
def _resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    mode = node.get("mode", "nearest")
    if (
        mode not in ("nearest", "linear")
        or node.get("antialias", 0)
        or node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise node.unsupported(f"mode {mode} (nearest and linear are known), antialias or an aspect ratio policy")
    axes = list(node.get("axes") or range(x.ndim))
    if sizes is not None and sizes.numel():
        wanted = numbers(sizes)
        factors = [size / x.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    elif scales is not None:
        factors = [float(value) for value in scales.tolist()]
        wanted = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        raise node.unsupported("neither scales nor sizes")
    for axis, size, factor in zip(axes, wanted, factors, strict=True):
        if size == x.shape[axis] and factor == 1:
            continue
        places = _places(node, np.arange(size, dtype=np.float64), factor, x.shape[axis], size)
        x = _nearest(node, x, axis, places) if mode == "nearest" else _linear(x, axis, places)
    return x


def _places(node: Node, at: np.ndarray, factor: float, old: int, new: int) -> np.ndarray:
    """Where in the input each place of the output lies."""
    kind = node.get("coordinate_transformation_mode", "half_pixel")
    if kind == "asymmetric":
        return at / factor
    if kind == "half_pixel" or (kind == "pytorch_half_pixel" and new > 1):
        return (at + 0.5) / factor - 0.5
    if kind == "pytorch_half_pixel":
        return at * 0
    if kind == "align_corners":
        return at * (old - 1) / max(new - 1, 1)
    raise node.unsupported(f"coordinates of the kind {kind}")


def _nearest(node: Node, x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    mode = node.get("nearest_mode", "round_prefer_floor")
    if mode == "round_prefer_floor":
        chosen = np.ceil(places - 0.5)
    elif mode == "round_prefer_ceil":
        chosen = np.floor(places + 0.5)
    else:
        chosen = np.floor(places) if mode == "floor" else np.ceil(places)
    index = np.clip(chosen, 0, x.shape[axis] - 1).astype(np.int64)
    return x.index_select(axis, torch.from_numpy(index))


def _linear(x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    last = x.shape[axis] - 1
    low = np.floor(places)
    part = torch.from_numpy((places - low).astype(np.float32)).to(x.dtype)
    part = part.reshape(-1, *[1] * (x.ndim - 1 - axis))
    left, right = (torch.from_numpy(np.clip(low + step, 0, last).astype(np.int64)) for step in (0, 1))
    return x.index_select(axis, left) * (1 - part) + x.index_select(axis, right) * part
