"""Observers of activations during calibration, and the estimators that derive a quantisation range from them.

An observer keeps a histogram, so calibration needs the same memory for ten samples as for a million.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.compress.calibration.ranges import TensorRange
from aigc_edge.compress.rounding import scale_of

BINS = 4096  # on either side of zero: at least 16 bins per quantisation step, even after the range has doubled
COUNTED = 1 << 15  # values per evaluation that the histogram counts, evenly spaced; ranges cover all values


@dataclass
class Observer(TensorRange):
    """Range and histogram of one float tensor; the histogram covers −`limit` … `limit`, a power of two."""

    limit: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))

    def see(self, values: npt.NDArray[Any], row: int = 0) -> None:
        super().see(values, row)
        if not values.size:
            return
        if self.largest > 0 and self.limit == 0:
            self.limit = 2.0 ** math.ceil(math.log2(self.largest))
        while self.largest > self.limit:  # exact: two neighbouring bins become one
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS // 2 + BINS] = pairs
            self.limit *= 2
        step = (values.size // COUNTED) | 1  # odd: it meets all rows and columns of a map
        counted = values.ravel()[::step] if values.size > COUNTED else values.ravel()
        scaled = (counted * np.float32(BINS / (self.limit or 1.0)) + np.float32(BINS)).astype(np.int32)
        self.counts += np.bincount(np.clip(scaled, 0, 2 * BINS - 1), minlength=2 * BINS)

    def centres(self) -> npt.NDArray[np.float64]:
        """The centre of each bin."""
        return (np.arange(2 * BINS, dtype=np.float64) + 0.5 - BINS) * float(self.limit / BINS)


def minmax(observer: Observer) -> tuple[float, float]:
    """The whole observed range."""
    return observer.low, observer.high


def percentile(observer: Observer, tail: float = 1e-4) -> tuple[float, float]:
    """The range without the share `tail` at either end."""
    total = np.cumsum(observer.counts)
    edges = np.array([tail, 1 - tail]) * total[-1]
    low, high = observer.centres()[np.minimum(np.searchsorted(total, edges), 2 * BINS - 1)]
    return min(max(float(low), observer.low), 0.0), max(min(float(high), observer.high), 0.0)


def least_squares(observer: Observer, symmetric: bool) -> tuple[float, float]:
    """The range with the least mean squared quantisation error, of shrunken versions of the observed range."""
    used = observer.counts > 0
    values, weights = observer.centres()[used], observer.counts[used].astype(np.float64)
    best = (math.inf, observer.low, observer.high)
    for below, above in _shrunken(symmetric):
        low, high = observer.low * below, observer.high * above
        scale, zero = scale_of(low, high, symmetric)
        edges = (-127, 127) if symmetric else (0, 255)
        dequantised = (np.clip(np.rint(values / scale) + zero, *edges) - zero) * scale
        error = float(weights @ np.square(dequantised - values))
        if error < best[0]:
            best = (error, low, high)
    return best[1], best[2]


def entropy(observer: Observer, symmetric: bool) -> tuple[float, float]:
    """The range whose quantisation loses the least information, of shrunken versions of the observed range.

    Minimises the Kullback-Leibler divergence between the clipped values and their quantised distribution, with each step's share
    spread evenly over the occupied bins (Migacz 2017, 8-bit inference with TensorRT).
    """
    centres = observer.centres()
    used = (observer.counts > 0) & (np.abs(centres) > observer.limit / BINS)  # zeros, half of a ReLU's values, stay exact
    values, counts = centres[used], observer.counts[used].astype(np.float64)
    best = (math.inf, observer.low, observer.high)
    for below, above in _shrunken(symmetric):
        low, high = observer.low * below, observer.high * above
        if symmetric:
            high = max(-low, high)
            low = -high
        inside = np.flatnonzero((values >= low) & (values <= high))
        if not inside.size:
            continue
        scale, zero = scale_of(low, high, symmetric)
        first, last = inside[0], inside[-1] + 1
        kept = counts[first:last]
        clipped = kept.copy()
        clipped[0] += counts[:first].sum()
        clipped[-1] += counts[last:].sum()
        steps = np.clip(np.rint(values[first:last] / scale) + zero, *((-127, 127) if symmetric else (0, 255))).astype(int)
        steps -= steps.min()
        spread = (np.bincount(steps, kept) / np.maximum(np.bincount(steps), 1))[steps]
        divergence = float(clipped @ np.log(clipped * kept.sum() / (spread * clipped.sum()))) / float(clipped.sum())
        if divergence < best[0] - 1e-12:
            best = (divergence, low, high)
    return max(best[1], observer.low), min(best[2], observer.high)


def _shrunken(symmetric: bool) -> list[tuple[float, float]]:
    """Factors of the low and the high end to try."""
    shrink = [float(f) for f in np.linspace(1, 0.3, 36)]
    return [(f, f) for f in shrink] if symmetric else [pair for f in shrink for pair in ((f, f), (1.0, f), (f, 1.0))]


ESTIMATORS: dict[str, Callable[[Observer, bool], tuple[float, float]]] = {
    "minmax": lambda observer, symmetric: minmax(observer),
    "percentile": lambda observer, symmetric: percentile(observer),
    "entropy": entropy,
    "mse": least_squares,
}
