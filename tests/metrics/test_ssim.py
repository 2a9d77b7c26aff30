"""SSIM against sums written out, and its known values."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.errors import AigcEdgeError
from aigc_edge.metrics.ssim import SIGMA, WINDOW, ssim


def _slow(x, y, size):
    """The definition, window by window, in float64."""
    places = np.arange(size) - size // 2
    line = np.exp(-0.5 * (places / SIGMA) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2, values = 0.02**2, 0.06**2, []
    for top in range(x.shape[0] - size + 1):
        for left in range(x.shape[1] - size + 1):
            a, b = (image[top : top + size, left : left + size].astype(np.float64) for image in (x, y))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb, ab = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2, (window * a * b).sum() - ma * mb
            values.append((2 * ma * mb + c1) * (2 * ab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width"), [(16, 13), (8, 9), (4, 20)])
def test_it_is_the_mean_over_all_windows(rng, height, width):
    x = rng.uniform(-1, 1, (2, 3, height, width)).astype(np.float32)
    y = np.clip(x + 0.3 * rng.standard_normal(x.shape), -1, 1).astype(np.float32)
    size = min(WINDOW, height - 1 + height % 2, width - 1 + width % 2)
    wanted = np.mean([_slow(x[n, c], y[n, c], size) for n in range(2) for c in range(3)])
    assert ssim(x, y, data_range=2) == pytest.approx(wanted, abs=1e-9)


def test_known_values(rng):
    x = rng.uniform(-1, 1, (1, 1, 16, 16)).astype(np.float32)
    assert ssim(x, x) == pytest.approx(1.0)
    flat = np.full_like(x, 0.5)
    assert ssim(flat, -flat, data_range=2) == pytest.approx((-0.5 + 4e-4) / (0.5 + 4e-4), rel=1e-5)


def test_shapes_must_agree():
    with pytest.raises(AigcEdgeError, match="give two"):
        ssim(np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 1, 8, 9), np.float32))
