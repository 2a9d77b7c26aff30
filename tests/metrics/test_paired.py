"""PSNR and relative L2 by their definitions; NaN never passes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aigc_edge.errors import AigcEdgeError
from aigc_edge.metrics.paired import centred_l2, compare, psnr, relative_l2


def test_psnr_of_a_known_error(rng: np.random.Generator) -> None:
    a = rng.uniform(-1, 1, (3, 1, 8, 8))
    assert psnr(a + 0.02, a, data_range=2) == pytest.approx(40.0, abs=1e-9)  # 20 log10(2 / 0.02)
    assert psnr(a, a + 0.02, data_range=2) == pytest.approx(40.0, abs=1e-9)
    assert psnr(255 * a, 255 * a + 25.5, data_range=255) == pytest.approx(20.0, abs=1e-9)
    assert psnr(a, a) == math.inf


def test_float32_is_measured_in_float64() -> None:
    a = np.full((1000, 1000), 1.0, np.float32)
    b = a + np.float32(1e-4)
    assert psnr(a, b, data_range=2) == pytest.approx(20 * math.log10(2 / float(b[0, 0] - a[0, 0])), rel=1e-9)


def test_relative_l2_by_its_definition(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 50))
    assert relative_l2(a, b) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-13)
    assert relative_l2(b, b) == 0
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(np.ones(3), np.zeros(3)) == math.inf


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.02, -0.9), (127.5, 127.5)])
def test_the_peak_is_the_references_own(rng: np.random.Generator, scale: float, offset: float) -> None:
    """Dark, low-contrast and 8-bit results are measured alike: errors count relative to what there is to see."""
    reference = rng.uniform(-1, 1, (3, 2, 8, 8))
    reference[0, 0, 0, :2] = -1, 1
    error = rng.standard_normal(reference.shape)
    error *= 0.1 / np.sqrt(np.mean(error**2))
    figures = compare(scale * (reference + error) + offset, scale * reference + offset)
    assert figures["psnr"] == pytest.approx(20 * math.log10(2 / 0.1), rel=1e-6)
    varying = reference - reference.mean(axis=(2, 3), keepdims=True)
    assert figures["centred_l2"] == pytest.approx(np.linalg.norm(error) / np.linalg.norm(varying), rel=1e-6)


def test_a_reference_that_does_not_vary() -> None:
    flat = np.full((2, 1, 4, 4), 0.5)
    assert compare(flat, flat) == {"psnr": None, "relative_l2": 0.0, "centred_l2": 0.0}
    assert compare(flat + 0.005, flat) == {"psnr": pytest.approx(40), "relative_l2": pytest.approx(0.01), "centred_l2": None}
    assert compare(np.ones(3), np.zeros(3))["psnr"] == -200
    colours = np.stack([flat[0], -flat[0]])  # constant images that differ from each other
    assert centred_l2(0.9 * colours, colours) == pytest.approx(0.1)


@pytest.mark.parametrize("metric", [psnr, relative_l2, centred_l2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_broken_values_fail_loudly(metric, bad: float, place: int) -> None:
    pair = [np.zeros(5), np.zeros(5)]
    pair[place][2] = bad
    with pytest.raises(AigcEdgeError, match=r"1 of 5 values of the (first|second) array"):
        metric(*pair)


@pytest.mark.parametrize("metric", [psnr, relative_l2, centred_l2])
def test_shapes_must_agree(metric) -> None:
    with pytest.raises(AigcEdgeError, match=r"\[2, 3\] and \[3, 2\]"):
        metric(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(AigcEdgeError, match="not empty"):
        metric(np.zeros(0), np.zeros(0))
