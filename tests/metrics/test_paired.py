"""PSNR and relative L2 by their definitions; NaN never passes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aigc_edge.errors import AigcEdgeError
from aigc_edge.metrics.paired import psnr, relative_l2


def test_psnr_of_a_known_error(rng: np.random.Generator) -> None:
    a = rng.uniform(-1, 1, (3, 1, 8, 8))
    assert psnr(a + 0.02, a) == pytest.approx(40.0, abs=1e-9)  # 20 log10(2 / 0.02)
    assert psnr(a, a + 0.02) == pytest.approx(40.0, abs=1e-9)
    assert psnr(255 * a, 255 * a + 25.5, data_range=255) == pytest.approx(20.0, abs=1e-9)
    assert psnr(a, a) == math.inf


def test_float32_is_measured_in_float64() -> None:
    a = np.full((1000, 1000), 1.0, np.float32)
    b = a + np.float32(1e-4)
    assert psnr(a, b) == pytest.approx(20 * math.log10(2 / float(b[0, 0] - a[0, 0])), rel=1e-9)


def test_relative_l2_by_its_definition(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 50))
    assert relative_l2(a, b) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-13)
    assert relative_l2(b, b) == 0
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(np.ones(3), np.zeros(3)) == math.inf


@pytest.mark.parametrize("metric", [psnr, relative_l2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_broken_values_fail_loudly(metric, bad: float, place: int) -> None:
    pair = [np.zeros(5), np.zeros(5)]
    pair[place][2] = bad
    with pytest.raises(AigcEdgeError, match=r"1 of 5 values of the (first|second) array"):
        metric(*pair)


@pytest.mark.parametrize("metric", [psnr, relative_l2])
def test_shapes_must_agree(metric) -> None:
    with pytest.raises(AigcEdgeError, match=r"\[2, 3\] and \[3, 2\]"):
        metric(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(AigcEdgeError, match="not empty"):
        metric(np.zeros(0), np.zeros(0))
