"""What is said about a set of timings: quantiles with intervals that assume no distribution, and paired ratios with a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
SAME = 0.01  # two medians within 1 % of each other count as the same
P90_NEEDS = 64  # fewer samples hold too few beyond the 90th percentile to name it


def quantile_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (0-based, in order) between which the q-quantile lies with at least `confidence`; None when n is too small.

    The number of samples below the quantile is binomial(n, q), whatever the distribution of the samples is (David & Nagaraja,
    Order Statistics, 7.1).
    """
    tail = (1 - confidence) / 2
    below = np.cumsum([math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]) if n <= 1000 else _normal(n, q)
    low = int(np.searchsorted(below, tail, side="right"))  # P(K < low) <= tail
    high = int(np.searchsorted(below, 1 - tail - 1e-12))  # P(K > high) <= tail
    if low < 1 or high > n - 1:
        return None
    return low - 1, high


def _normal(n: int, q: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    # Binomial coefficients overflow a double from n = 1030; there the normal approximation is good to three digits.
    spread = math.sqrt(2 * n * q * (1 - q))
    return np.array([0.5 * (1 + math.erf((k + 0.5 - n * q) / spread)) for k in range(n + 1)])


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median with its 95 % interval, p90 (None when n is too small to name it), quartiles, extremes and n, in their unit."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("a summary needs at least one sample, all finite")
    q1, median, q3, p90 = np.quantile(values, [0.25, 0.5, 0.75, 0.9])
    ranks = quantile_ranks(values.size, 0.5)
    interval = [float(values[ranks[0]]), float(values[ranks[1]])] if ranks else None
    return {
        "n": int(values.size),
        "median": float(median),
        "median_interval": interval,
        "p90": float(p90) if values.size >= P90_NEEDS else None,
        "quartiles": [float(q1), float(q3)],
        "min": float(values[0]),
        "max": float(values[-1]),
    }


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """How many times faster `ours` is than `theirs`, from timings that were taken in the same rounds.

    The ratio is taken in each round, so what slows a whole round (another process, the clock) cancels. The verdict is FASTER,
    SLOWER or SAME (within 1 %) when the 95 % interval of the median ratio says so, else UNCLEAR.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError("ratios need as many timings of one as of the other")
    ratios = np.asarray(theirs, dtype=np.float64) / np.asarray(ours, dtype=np.float64)
    figures = summary(ratios.tolist())
    interval = figures["median_interval"]
    return {
        "ratio": figures["median"],
        "interval": interval,
        "quartiles": figures["quartiles"],
        "rounds": figures["n"],
        "verdict": verdict(*interval) if interval else "UNCLEAR",
    }


def verdict(low: float, high: float) -> str:
    """What an interval of a ratio (theirs / ours) says."""
    if low >= 1 - SAME and high <= 1 + SAME:
        return "SAME"
    if low > 1:
        return "FASTER"
    if high < 1:
        return "SLOWER"
    return "UNCLEAR"
