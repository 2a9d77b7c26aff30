"""Rounding to types of few bits, and the scales with the least rounding error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Scale = tuple[np.float32, int]  # scale and zero point: real = scale · (integer − zero point)
Project = Callable[[Floats], Floats]  # weight / scale → the nearest value of the type

E4M3_LARGEST = 448.0
E4M3_SMALLEST = 2.0**-9
E2M1_LARGEST = 6.0
SMALLEST_SCALE = 2.0**-14  # a normal number in half precision; float types need no finer scale
_PART = 1 << 20  # elements per step of the search


def to_int(bits: int) -> Project:
    """Symmetric integers: −7 … 7 of 4 bits, −127 … 127 of 8."""
    largest = 2 ** (bits - 1) - 1
    return lambda values: np.clip(np.rint(values), -largest, largest)


def to_e4m3(values: Floats) -> Floats:
    """8-bit floats with 4 exponent and 3 mantissa bits; larger values become 448."""
    clipped = np.clip(values, -E4M3_LARGEST, E4M3_LARGEST)
    return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def to_e2m1(values: Floats) -> Floats:
    """4-bit floats: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; larger values become 6."""
    size = np.minimum(np.abs(values), np.float32(E2M1_LARGEST))
    step = np.where(size < 2, np.float32(0.5), np.where(size < 4, np.float32(1), np.float32(2)))
    return np.copysign(np.rint(size / step) * step, values)


def block_of(inputs: int, wanted: int, least: int = 16) -> int:
    """The largest block of at most `wanted` inputs, a power of two, that divides a row of `inputs`; 0 when `least` does not."""
    block = wanted
    while block > least and inputs % block:
        block //= 2
    return block if inputs % block == 0 else 0


def best_scales(
    rows: Floats,
    block: int,
    largest: float,
    project: Project,
    *,
    shrink: Sequence[float] = (1.0,),
    importance: Floats | None = None,
    round_scale: Project | None = None,
) -> Floats:
    """One scale for each `block` inputs of each row [outputs, inputs]: [outputs, inputs / block], above zero.

    The scale maps the largest weight of the block to the type's `largest` value, or beyond it by one of the factors `shrink`,
    whichever has the least mean squared error over the block, weighted by `importance` [inputs] (mean squared inputs).
    `round_scale` rounds scales to values of their own type.
    """
    outputs, inputs = rows.shape
    count = inputs // block
    weights = None if importance is None else importance.reshape(1, count, block)
    scales = np.empty((outputs, count), np.float32)
    step = max(1, _PART // inputs)
    for first in range(0, outputs, step):
        part = rows[first : first + step].reshape(-1, count, block)
        top = np.abs(part).max(axis=2) / np.float32(largest)
        best = np.full(top.shape, np.inf, np.float32)
        chosen = np.ones_like(top)
        for factor in shrink:
            scale = np.maximum(top * np.float32(factor), np.float32(1e-12))
            scale = scale if round_scale is None else np.maximum(round_scale(scale), np.float32(1e-12))
            wide = scale[:, :, None]
            error = np.square(project(part / wide) * wide - part)
            sums = (error if weights is None else error * weights).sum(axis=2)
            better = sums < best
            best, chosen = np.where(better, sums, best), np.where(better, scale, chosen)
        scales[first : first + step] = np.where(top > 0, chosen, np.float32(1))
    return scales


def quantised(rows: Floats, scales: Floats, project: Project) -> Floats:
    """The codes [outputs, inputs], as float32, of `rows` with `scales` [outputs, blocks]."""
    blocks = rows.reshape(len(rows), scales.shape[1], -1)
    codes: Floats = project(blocks / scales[:, :, None]).reshape(rows.shape)
    return codes


def spread(scales: Floats, inputs: int) -> Floats:
    """The scale of every weight [outputs, inputs] from those of the blocks."""
    return scales.repeat(inputs // scales.shape[1], axis=1)


def scale_of(low: float, high: float, symmetric: bool) -> Scale:
    """Scale and zero point that represent [low, high]: int8 with zero point 0 when symmetric, else uint8."""
    if symmetric:
        return np.float32(max(-low, high) / 127 or 1.0), 0
    scale = np.float32((high - low) / 255 or 1.0)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))
