"""Observers against NumPy's own histogram and percentiles; estimators against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.compress.calibration.observers import BINS, COUNTED, Observer, entropy, least_squares, minmax, percentile
from aigc_edge.compress.rounding import scale_of
from aigc_edge.errors import AigcEdgeError


def _seen(values: np.ndarray, parts: int = 1) -> Observer:
    observer = Observer()
    for index, part in enumerate(np.array_split(values.astype(np.float32), parts)):
        observer.see(part, row=index)
    return observer


def test_histogram_is_numpys_also_after_doubling(rng: np.random.Generator) -> None:
    values = (rng.standard_normal(4000) * np.linspace(0.01, 9, 4000)).astype(np.float32)  # the range grows as it is seen
    observer = _seen(values, parts=13)
    assert observer.limit / 2 < np.abs(values).max() <= observer.limit
    wanted, _ = np.histogram(values.astype(np.float64), bins=2 * BINS, range=(-observer.limit, observer.limit))
    assert observer.counts.sum() == 4000
    assert np.abs(np.cumsum(observer.counts) - np.cumsum(wanted)).max() <= 2  # a value on an edge may go either way


def test_ranges_by_row(rng: np.random.Generator) -> None:
    values = rng.uniform(2, 3, 300).astype(np.float32)
    observer = _seen(values, parts=3)
    parts = np.array_split(values, 3)
    assert observer.rows == {str(row): [float(part.min()), float(part.max())] for row, part in enumerate(parts)}
    assert minmax(observer) == (0.0, float(values.max()))  # zero always belongs to the range
    observer.see(np.float32([-7]), row=1)
    assert observer.rows["1"] == [-7.0, float(parts[1].max())]


def test_percentile_is_numpys_to_a_bin(rng: np.random.Generator) -> None:
    values = rng.standard_normal(50_000).astype(np.float32)
    values[:3] = [40, -30, 35]
    observer = _seen(values, parts=5)
    low, high = percentile(observer, tail=1e-3)
    wanted = np.percentile(values, [0.1, 99.9])
    assert (
        np.abs(np.array([low, high]) - wanted).max() <= 2 * observer.limit / BINS + 0.05
    )  # and the gap between two values there
    low, high = percentile(_seen(rng.uniform(1, 2, 1000)))
    assert low == 0
    assert 1.9 < high <= 2


@pytest.mark.parametrize("symmetric", [True, False])
def test_least_squares_beats_all_other_ranges(rng: np.random.Generator, symmetric: bool) -> None:
    """Its range is (nearly) as good as the best of a fine search on the values themselves, and better than all that was seen."""
    values = np.concatenate([rng.standard_normal(20_000), [25.0]])
    values = np.where(values < 0, values * 0.1, values).astype(np.float32)
    observer = _seen(values)

    def error(low: float, high: float) -> float:
        scale, zero = scale_of(low, high, symmetric)
        edges = (-127, 127) if symmetric else (0, 255)
        made = (np.clip(np.rint(values / scale) + zero, *edges) - zero) * scale
        return float(np.mean((made - values) ** 2))

    chosen = error(*least_squares(observer, symmetric))
    best = min(error(observer.low, high) for high in np.linspace(7.5, 25, 300))
    assert chosen <= 1.05 * best
    assert chosen < error(*minmax(observer))


def test_scales_hold_the_range(rng: np.random.Generator) -> None:
    low, high = -float(rng.uniform(0, 3)), float(rng.uniform(0, 9))
    scale, zero = scale_of(low, high, False)
    assert 0 <= zero <= 255
    assert (0 - zero) * scale <= low + scale / 2
    assert (255 - zero) * scale >= high - scale / 2
    assert scale_of(low, high, True) == (np.float32(max(-low, high) / 127), 0)
    for symmetric in (True, False):
        assert scale_of(0, 0, symmetric) == (1, 0)  # a tensor of zeros stays one of zeros


def test_only_zeros() -> None:
    observer = _seen(np.zeros(10))
    assert (minmax(observer), percentile(observer), least_squares(observer, True)) == ((0, 0), (0, 0), (0, 0))
    observer.see(np.float32([0.5]))
    assert observer.counts.sum() == 11


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_activations_are_refused(bad: float) -> None:
    with pytest.raises(AigcEdgeError, match="NaN or infinite"):
        _seen(np.array([1.0, bad, 2.0]))


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_loses_least(rng: np.random.Generator, symmetric: bool) -> None:
    """Its divergence, computed in another way on the values themselves, is (nearly) the least of all ranges it tries."""
    values = np.concatenate([rng.laplace(0, 1, 60_000), [30.0]])
    values = (values if symmetric else np.maximum(values, 0)).astype(np.float32)
    observer = _seen(values)
    width = observer.limit / BINS

    def divergence(high: float) -> float:
        bins = np.floor(values / width)
        bins = bins[(bins != 0) & (bins != -1)]  # zeros are exact in every range
        scale, _ = scale_of(-high if symmetric else 0.0, high, symmetric)
        middle = (np.arange(bins.min(), bins.max() + 1) + 0.5) * width
        counts = np.bincount((bins - bins.min()).astype(int)).astype(float)
        inside = (np.abs(middle) <= high) & (counts > 0)
        kept, centres = counts[inside], middle[inside]
        clipped = kept.copy()
        clipped[-1] += counts[middle > high].sum()
        clipped[0] += counts[middle < -high].sum()
        step = np.rint(centres / scale)
        spread = np.array([kept[step == s].mean() for s in step])
        p, q = clipped / clipped.sum(), spread / spread.sum()
        return float((p * np.log(p / q)).sum())

    low, high = entropy(observer, symmetric)
    assert low >= observer.low
    assert high <= observer.high
    tried = [divergence(observer.high * share) for share in np.linspace(1, 0.3, 36)]
    assert divergence(high) <= min(tried) * 1.02 + 1e-6
    assert high < observer.high  # one value far out is not worth the resolution of all others


def test_ranges_are_of_all_values_though_few_are_counted(rng: np.random.Generator) -> None:
    values = rng.standard_normal((4, 64, 64, 64)).astype(np.float32)
    values[2, 3, 4, 5] = 50
    observer = Observer()
    observer.see(values)
    assert observer.high == 50
    assert COUNTED / 2 < observer.counts.sum() <= COUNTED + 1
    assert np.abs(np.array(percentile(observer, tail=0.02)) - np.percentile(values, [2, 98])).max() < 0.15
