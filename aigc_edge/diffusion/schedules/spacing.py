"""Spacings: which noise levels or training timesteps a number of steps visits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from aigc_edge.errors import ProgramError
from aigc_edge.registry import Registry

SIGMA_SPACINGS: Registry[Callable[[float, float, int, float], np.ndarray]] = Registry("spacing of sigmas", __name__)
"""Over noise levels: (sigma_min, sigma_max, points, rho) → sigmas [points], falling from sigma_max to sigma_min."""
TIME_SPACINGS: Registry[Callable[[int, int, int], np.ndarray]] = Registry("spacing of timesteps", __name__)
"""Over training timesteps: (train_steps, steps, steps_offset) → timesteps [steps], falling."""


@SIGMA_SPACINGS.register("karras")
def karras(sigma_min: float, sigma_max: float, points: int, rho: float) -> np.ndarray:
    """Equal steps of sigma^(1/rho) (Karras et al. 2022, equation 5)."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (high + np.linspace(0, 1, points) * (low - high)) ** rho


@SIGMA_SPACINGS.register("exponential")
def exponential(sigma_min: float, sigma_max: float, points: int, rho: float) -> np.ndarray:
    """Equal steps of ln(sigma), which are equal steps of the half-log-SNR (Lu et al. 2022); rho is not used."""
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), points))


@TIME_SPACINGS.register("linspace")
def linspace(train_steps: int, steps: int, offset: int) -> np.ndarray:
    """Evenly from the last training timestep down to 0, without rounding (Lin et al. 2023, table 2)."""
    return np.linspace(train_steps - 1, 0, steps)


@TIME_SPACINGS.register("leading")
def leading(train_steps: int, steps: int, offset: int) -> np.ndarray:
    """Multiples of train_steps // steps, plus `offset` (Song et al. 2021; Lin et al. 2023, table 2)."""
    return np.arange(steps - 1, -1, -1) * (train_steps // steps) + float(offset)


@TIME_SPACINGS.register("trailing")
def trailing(train_steps: int, steps: int, offset: int) -> np.ndarray:
    """Every train_steps / steps down from the last training timestep, rounded (Lin et al. 2023, table 2)."""
    return np.round(train_steps - np.arange(steps) * (train_steps / steps)) - 1


@SIGMA_SPACINGS.register("polynomial")
def polynomial(sigma_min: float, sigma_max: float, points: int, rho: float) -> np.ndarray:
    """Equal steps of ln(sigma), their ramp to the power of `rho`; 1 is exponential (k-diffusion's polyexponential)."""
    ramp = np.linspace(1, 0, points) ** rho
    return np.exp(math.log(sigma_min) + ramp * (math.log(sigma_max) - math.log(sigma_min)))


@TIME_SPACINGS.register("beta")
def beta(train_steps: int, steps: int, offset: int) -> np.ndarray:
    """Quantiles of the Beta(0.6, 0.6) distribution, dense at both ends, rounded (Lee et al. 2024, beta sampling)."""
    share = 1 - np.arange(steps) / steps
    return np.round(np.round(beta_quantile(share) * (train_steps - 1), 6))  # the median is a tie, whatever its rounding


def beta_quantile(share: np.ndarray, shape: float = 0.6) -> np.ndarray:
    """Quantiles of the symmetric Beta distribution by bisection; with u = x^shape its density has no pole at 0."""
    points, weights = np.polynomial.legendre.leggauss(60)

    def below(u: np.ndarray) -> np.ndarray:  # proportional to the distribution function at x = u^(1 / shape), x <= 1/2
        inner = u[:, None] * (1 + points) / 2
        return u / 2 * ((1 - inner ** (1 / shape)) ** (shape - 1) @ weights)

    half = 0.5**shape
    goal = np.minimum(share, 1 - share) * 2 * below(np.array([half]))
    low, high = np.zeros(len(share)), np.full(len(share), half)
    for _ in range(60):
        middle = (low + high) / 2
        less = below(middle) < goal
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    x = ((low + high) / 2) ** (1 / shape)
    return np.where(share <= 0, 0.0, np.where(share <= 0.5, x, 1 - x))


def resampled(sigmas: Sequence[float], points: int) -> np.ndarray:
    """`sigmas` interpolated to `points` noise levels, linearly in ln(sigma) over the index (Sabour et al. 2024).

    Raises ProgramError for fewer than two sigmas and for sigmas that are not positive and falling.
    """
    noisy = np.array(sigmas, np.float64)
    if len(noisy) < 2 or not ((noisy > 0).all() and (np.diff(noisy) < 0).all()):
        raise ProgramError(
            "a list of noise levels needs two or more falling positive sigmas (in a table 0 after them ends at the clean sample)"
        )
    if len(noisy) == points:
        return noisy
    return np.exp(np.interp(np.linspace(0, len(noisy) - 1, points), np.arange(len(noisy)), np.log(noisy)))
