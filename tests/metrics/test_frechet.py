"""Fréchet distance against closed forms, scipy, and what a bootstrap interval promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from aigc_edge.errors import AigcEdgeError
from aigc_edge.metrics.frechet import FeatureStatistics, bootstrap_interval, frechet_distance


def _statistics(mean: np.ndarray, cov: np.ndarray) -> FeatureStatistics:
    return FeatureStatistics(mean, cov, 1000)


def _random_cov(rng: np.random.Generator, size: int, rank: int | None = None) -> np.ndarray:
    factor = rng.standard_normal((size, rank or 2 * size))
    return factor @ factor.T


def test_statistics_are_numpys(rng: np.random.Generator) -> None:
    features = rng.standard_normal((37, 5)) * 10 + 3
    statistics = FeatureStatistics.of(features.astype(np.float32))
    wanted = features.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, wanted.mean(0), rtol=1e-13)
    np.testing.assert_allclose(statistics.cov, np.cov(wanted.T), rtol=1e-12)
    assert statistics.n == 37


def test_equal_sets_have_no_distance(rng: np.random.Generator) -> None:
    cov, mean = _random_cov(rng, 20), rng.standard_normal(20)
    assert frechet_distance(_statistics(mean, cov), _statistics(mean, cov)) <= 1e-12 * np.trace(cov)


def test_equal_covariances_leave_the_distance_of_the_means(rng: np.random.Generator) -> None:
    cov, a, b = _random_cov(rng, 8), rng.standard_normal(8), rng.standard_normal(8)
    assert frechet_distance(_statistics(a, cov), _statistics(b, cov)) == pytest.approx(((a - b) ** 2).sum(), rel=1e-11)


def test_commuting_covariances(rng: np.random.Generator) -> None:
    """C = Q diag(v) Qᵀ with a common Q: the distance is |Δμ|² + Σ (√va − √vb)²."""
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    va, vb = rng.uniform(0, 5, 16), rng.uniform(0, 5, 16)
    va[3] = vb[5] = 0
    a, b = rng.standard_normal(16), rng.standard_normal(16)
    wanted = ((a - b) ** 2).sum() + ((np.sqrt(va) - np.sqrt(vb)) ** 2).sum()
    made = frechet_distance(_statistics(a, turn * va @ turn.T), _statistics(b, turn * vb @ turn.T))
    assert made == pytest.approx(wanted, rel=1e-7)  # the zeros come out of Q as 1e-16, whose root is 1e-8


def test_agrees_with_the_matrix_square_root(rng: np.random.Generator) -> None:
    a, b = (_statistics(rng.standard_normal(12), _random_cov(rng, 12)) for _ in range(2))
    root = linalg.sqrtm(a.cov @ b.cov).real
    wanted = ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("n", [5, 12])
def test_fewer_images_than_features(rng: np.random.Generator, n: int) -> None:
    """Covariances of rank n − 1: tr (Ca^½ Cb Ca^½)^½ is the nuclear norm of Xa Xbᵀ, X the centred features over √(n − 1)."""
    a, b = rng.standard_normal((n, 40)), rng.standard_normal((n + 3, 40)) * 2 + 1
    xa, xb = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + (xa**2).sum() + (xb**2).sum() - 2 * linalg.svdvals(xa @ xb.T).sum()
    assert frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b)) == pytest.approx(wanted, rel=1e-10)


def test_constant_features() -> None:
    a, b = np.zeros((9, 3)), np.full((9, 3), 2.0)
    assert frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b)) == 12.0


def test_interval_covers_the_true_distance(rng: np.random.Generator) -> None:
    """Two known Gaussians: 95 % of the intervals should hold the true distance; 60 trials may miss it 18 times, by luck never."""
    shift = np.array([1.0, 0.0])
    hits = 0
    for trial in range(60):
        a, b = rng.standard_normal((150, 2)), rng.standard_normal((150, 2)) + shift
        low, high = bootstrap_interval(a, b, draws=60, seed=trial)
        hits += low <= 1.0 <= high
    assert hits >= 42


def test_interval_holds_its_point_and_repeats_by_seed(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((80, 6)), rng.standard_normal((90, 6)) + 0.2
    point = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    low, high = bootstrap_interval(a, b, 50, seed=3)
    assert low <= point <= high
    assert (low, high) == bootstrap_interval(a, b, 50, seed=3)
    assert (low, high) != bootstrap_interval(a, b, 50, seed=4)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (np.zeros((1, 4)), "at least 2"),
        (np.zeros(4), "at least 2"),
        (np.array([[1.0, np.nan], [0, 0]]), "NaN"),
        (np.array([[1.0, np.inf], [0, 0]]), "infinity"),
    ],
)
def test_bad_features(features: np.ndarray, said: str) -> None:
    with pytest.raises(AigcEdgeError, match=said):
        FeatureStatistics.of(features)


def test_features_of_different_judges() -> None:
    with pytest.raises(AigcEdgeError, match="3 and of 4 dimensions"):
        frechet_distance(FeatureStatistics.of(np.eye(3)), FeatureStatistics.of(np.eye(4)))
