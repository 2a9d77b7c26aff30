"""What networks predict: every kind is D = c_skip · x + c_out · F(c_in · x), with D the denoised sample.

The noisy sample is x = alpha · x0 + sigma · eps in any coordinates: alpha = 1 (EDM, and VP networks in k-diffusion's
coordinates), alpha = 1 − t and sigma = t (flow), or others. Each function below holds for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from aigc_edge.diffusion import checks
from aigc_edge.errors import ProgramError
from aigc_edge.registry import Registry


class Coefficients(NamedTuple):
    """Scale of the network's input, and of the sample and the network's output in the denoised sample."""

    c_in: float
    c_skip: float
    c_out: float


Prediction = Callable[..., Coefficients]
PREDICTIONS: Registry[Prediction] = Registry("prediction", __name__, "aigc_edge.predictions")


@PREDICTIONS.register("edm")
def edm(alpha: float, sigma: float, *, sigma_data: float = 0.5) -> Coefficients:
    """EDM's preconditioned network, for data of standard deviation `sigma_data` (Karras et al. 2022, table 1)."""
    variance = checks.positive(sigma_data, "sigma_data") ** 2
    norm = math.hypot(sigma, alpha * sigma_data)
    return Coefficients(1 / norm, alpha / norm * (variance / norm), sigma * sigma_data / norm)


@PREDICTIONS.register("consistency")
def consistency(alpha: float, sigma: float, *, sigma_data: float = 0.5, sigma_min: float = 0.002) -> Coefficients:
    """A consistency model's EDM network, whose D is the sample itself at `sigma_min` (in sigma / alpha), for data of standard
    deviation `sigma_data` (Song et al. 2023, appendix C)."""
    data, above = checks.positive(sigma_data, "sigma_data"), sigma - alpha * checks.number(sigma_min, "sigma_min", 0.0)
    norm = math.hypot(sigma, alpha * data)
    return Coefficients(1 / norm, alpha * data**2 / (above**2 + (alpha * data) ** 2), above * data / norm)


@PREDICTIONS.register("denoised")
def denoised(alpha: float, sigma: float) -> Coefficients:
    """F = D, a network that scales its input and output itself: it takes x / alpha, in sigma / alpha (many exported consistency
    models and EDM denoisers). Raises ProgramError where alpha = 0."""
    if alpha == 0:
        raise ProgramError(
            "a network that takes x / alpha has no input where alpha is 0 (pure noise): start at a lower noise level"
        )
    return Coefficients(1 / alpha, 0.0, 1.0)


@PREDICTIONS.register("epsilon")
def epsilon(alpha: float, sigma: float) -> Coefficients:
    """F = eps, its input scaled to the variance-preserving x (Ho et al. 2020). Raises ProgramError where alpha = 0."""
    if alpha == 0:
        raise ProgramError(
            "a network that predicts epsilon predicts nothing about the image where alpha is 0 (pure noise, flow at t = 1): "
            "start at a lower noise level"
        )
    return Coefficients(1 / math.hypot(alpha, sigma), 1 / alpha, -sigma / alpha)


@PREDICTIONS.register("v")
def v(alpha: float, sigma: float) -> Coefficients:
    """F = (alpha · eps − sigma · x0) / hypot(alpha, sigma), the velocity of Salimans and Ho 2022, appendix D."""
    norm = math.hypot(alpha, sigma)
    return Coefficients(1 / norm, alpha / norm / norm, -sigma / norm)


@PREDICTIONS.register("x0")
def x0(alpha: float, sigma: float) -> Coefficients:
    """F = x0, its input scaled to the variance-preserving x (Salimans and Ho 2022, section 4)."""
    return Coefficients(1 / math.hypot(alpha, sigma), 0.0, 1.0)


@PREDICTIONS.register("flow")
def flow(alpha: float, sigma: float) -> Coefficients:
    """F = eps − x0, the velocity of the straight path (1 − t) x0 + t eps (Liu et al. 2022; Lipman et al. 2022)."""
    norm = alpha + sigma
    return Coefficients(1 / norm, 1 / norm, -sigma / norm)
