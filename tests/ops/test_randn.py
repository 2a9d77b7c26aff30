"""Noise: known answers, distribution, independence, and that a sample's numbers depend on nothing but its seed and draw."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aigc_edge import ops
from aigc_edge.ops._philox import philox

core = pytest.importorskip("aigc_edge._core")


def normals(seeds: list[int], draw: int, elements: int) -> np.ndarray:
    out = np.empty((len(seeds), elements), np.float32)
    ops.randn(np.array(seeds, np.uint64), draw, out)
    return out


KNOWN_ANSWERS = [  # Random123, kat_vectors
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_the_reference_is_philox(counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox(counter, key)) == words


def test_moments_and_distribution(fresh_seed: int) -> None:
    x = normals([fresh_seed], 0, 2**21)[0].astype(np.float64)
    n = x.size
    # Six standard deviations of each estimate: one false alarm in 10^8 runs.
    assert abs(x.mean()) < 6 / n**0.5
    assert abs(x.var() - 1) < 6 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 6 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 6 * (96 / n) ** 0.5
    assert stats.kstest(x, "norm").pvalue > 1e-8
    assert np.abs(x).max() > 4.3  # 2^21 numbers without one beyond would have a chance of 10^-15


def test_seeds_draws_and_neighbours_are_independent(fresh_seed: int) -> None:
    count = 2**16
    streams = {
        "seed": normals([fresh_seed], 0, count)[0],
        "next seed": normals([fresh_seed + 1], 0, count)[0],
        "high word of the seed": normals([fresh_seed + 2**32], 0, count)[0],
        "next draw": normals([fresh_seed], 1, count)[0],
        "last draw": normals([fresh_seed], 2**32 - 1, count)[0],
    }
    streams |= {f"{lag} elements on": np.roll(streams["seed"], lag) for lag in (1, 2, 3, 4, 64)}
    matrix = np.corrcoef(np.stack([*streams.values()]).astype(np.float64))
    squares = np.corrcoef(np.stack([*streams.values()]).astype(np.float64) ** 2)
    for found in (matrix, squares):
        assert np.abs(found - np.eye(len(streams))).max() < 6.5 / count**0.5, list(streams)


@pytest.mark.parametrize("elements", [5, 3072, 10000])
def test_a_samples_noise_depends_on_its_own_seed_alone(elements: int, fresh_seed: int) -> None:
    seeds = [fresh_seed, 0, 2**64 - 1, fresh_seed + 7]
    together = normals(seeds, 3, elements)
    for seed, row in zip(seeds, together, strict=True):
        np.testing.assert_array_equal(normals([seed], 3, elements)[0], row)
    # A longer sample begins with the same numbers.
    np.testing.assert_array_equal(normals(seeds, 3, elements + 13)[:, :elements], together)


def test_threads_change_nothing(fresh_seed: int) -> None:
    seeds = [fresh_seed + i for i in range(5)]
    alone = normals(seeds, 0, 300_001)
    core.set_threads(4)
    try:
        np.testing.assert_array_equal(normals(seeds, 0, 300_001), alone)
    finally:
        core.set_threads(1)
