"""Fréchet distance between two sets of features (Dowson & Landau 1982; as an image metric: Heusel et al., arXiv 1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import AigcEdgeError

Array = npt.NDArray[np.float64]


def _checked(features: npt.ArrayLike) -> Array:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1:
        raise AigcEdgeError(f"features of shape {list(values.shape)} given: they must be [n, D] with n of at least 2")
    if not np.isfinite(values).all():
        raise AigcEdgeError("the features contain NaN or infinity: check the images that they were computed from")
    return values


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean [D] and unbiased covariance [D, D] of n feature vectors, float64."""

    mean: Array
    cov: Array
    n: int

    @staticmethod
    def of(features: npt.ArrayLike) -> FeatureStatistics:
        """Statistics of `features` [n, D]; raises AigcEdgeError for n < 2 or values that are not finite."""
        values = _checked(features)
        mean = values.mean(axis=0)
        centred = values - mean
        return FeatureStatistics(mean, centred.T @ centred / (len(values) - 1), len(values))


def _factor(cov: Array) -> Array:
    """S with S Sᵀ = cov; eigenvalues that are rounding noise (also negative ones) are treated as zero."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    noise = len(values) * np.finfo(np.float64).eps * max(float(np.abs(values).max()), 0.0)
    return vectors * np.sqrt(np.where(values > noise, values, 0.0))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μa − μb|² + tr(Ca) + tr(Cb) − 2 tr (Ca^½ Cb Ca^½)^½, the squared 2-Wasserstein distance of two Gaussians.

    The last trace is taken as the nuclear norm of Saᵀ Sb with C = S Sᵀ: no root of a nearly singular product, so covariances of
    deficient rank are exact to rounding. The estimate from finite sets is biased upwards, by about 1/n (Chong & Forsyth, arXiv
    1911.07023): compare only distances that were taken with equal n.
    """
    if a.mean.shape != b.mean.shape:
        raise AigcEdgeError(
            f"features of {a.mean.size} and of {b.mean.size} dimensions cannot be compared: use one judge for both"
        )
    cross = np.linalg.svd(_factor(a.cov).T @ _factor(b.cov), compute_uv=False).sum()
    difference = a.mean - b.mean
    return max(float(difference @ difference + np.trace(a.cov) + np.trace(b.cov) - 2 * cross), 0.0)


def bootstrap_interval(
    features_a: npt.ArrayLike, features_b: npt.ArrayLike, draws: int = 200, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of the Fréchet distance between two feature sets [n, D]; both sets are resampled.

    A resample repeats vectors, which adds the small-sample bias of the distance a second time; the percentiles are shifted back
    by that measured bias (mean of the draws − distance), so the interval belongs to the distance that is reported (Efron 1981).
    """
    if draws < 2:
        raise AigcEdgeError(f"a bootstrap of {draws} draws was requested: give at least 2 (200 is usual)")
    a, b = _checked(features_a), _checked(features_b)
    generator = np.random.default_rng(seed)
    point = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    distances = np.empty(draws)
    for draw in range(draws):
        resampled = [FeatureStatistics.of(s[generator.integers(0, len(s), len(s))]) for s in (a, b)]
        distances[draw] = frechet_distance(*resampled)
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2]) - (distances.mean() - point)
    return max(float(low), 0.0), float(high)
