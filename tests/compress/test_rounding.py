"""Types of few bits hold exactly their values, and scales are searched for the least error."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from aigc_edge.compress.rounding import best_scales, block_of, quantised, spread, to_e2m1, to_e4m3, to_int


@pytest.mark.parametrize(
    ("project", "dtype", "largest"), [(to_e2m1, ml_dtypes.float4_e2m1fn, 6.0), (to_e4m3, ml_dtypes.float8_e4m3fn, 448.0)]
)
def test_floats_round_like_their_type(rng: np.random.Generator, project, dtype, largest: float) -> None:
    values = (rng.uniform(-1.2, 1.2, 4096) * largest * np.exp(-rng.exponential(2, 4096))).astype(np.float32)
    every = np.arange(16 if largest == 6 else 256, dtype=np.uint8).view(dtype).astype(np.float32)
    every = every[np.isfinite(every)]
    made = project(values)
    assert set(made.tolist()) <= set(every.tolist())
    nearest = np.abs(np.clip(values, -largest, largest)[:, None] - every).min(axis=1)
    np.testing.assert_allclose(np.abs(made - np.clip(values, -largest, largest)), nearest, atol=1e-7 * largest)
    np.testing.assert_array_equal(project(every), every)


def test_ties_go_to_even() -> None:
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -2.5], np.float32)
    np.testing.assert_array_equal(to_e2m1(ties), ties.astype(ml_dtypes.float4_e2m1fn).astype(np.float32))
    np.testing.assert_array_equal(to_int(4)(np.array([-9.0, -7.4, 0.5, 1.5, 99.0], np.float32)), [-7, -7, 0, 2, 7])


def test_scales_are_those_of_least_error(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((12, 128)).astype(np.float32)
    rows[3] = 0
    importance = np.exp(rng.normal(0, 2, 128)).astype(np.float32)
    project, shrink = to_int(4), (1.0, 0.9, 0.8, 0.7)

    def error(scales: np.ndarray) -> np.ndarray:
        made = quantised(rows, scales, project) * spread(scales, 128)
        return (np.square(made - rows) * importance).reshape(12, 4, 32).sum(axis=2)

    found = best_scales(rows, 32, 7, project, shrink=shrink, importance=importance)
    tops = np.abs(rows.reshape(12, 4, 32)).max(axis=2) / 7
    tried = np.stack([error(np.where(tops > 0, tops * f, 1).astype(np.float32)) for f in shrink])
    np.testing.assert_allclose(error(found), tried.min(axis=0), rtol=1e-5)
    assert (found > 0).all()
    assert (error(found).sum(axis=1) <= error(best_scales(rows, 32, 7, project)).sum(axis=1) * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("inputs", "wanted", "block"), [(384, 64, 64), (96, 64, 32), (16, 64, 16), (27, 64, 0), (4608, 128, 128)]
)
def test_blocks_divide(inputs: int, wanted: int, block: int) -> None:
    assert block_of(inputs, wanted) == block
