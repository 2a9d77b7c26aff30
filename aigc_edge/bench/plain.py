"""Solvers as one would write them by hand, on any array type with arithmetic: the peers of the compiled programs.

Written from the papers and deliberately apart from aigc_edge.diffusion: that the images agree shows that both are right.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

Denoise = Callable[[Any, float], Any]


def karras(steps: int, low: float, high: float, rho: float) -> list[float]:
    """Noise levels from `high` down to `low` and then 0 (Karras et al., arXiv 2206.00364, equation 5)."""
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return [(top + i / max(steps - 1, 1) * (bottom - top)) ** rho for i in range(steps)] + [0.0]


def euler(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:
    """Euler's method on dx/dsigma = (x - D) / sigma."""
    for sigma, following in itertools.pairwise(sigmas):
        x = x + (following - sigma) / sigma * (x - denoise(x, sigma))
    return x


def heun(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:
    """Heun's second order method, Euler in the last step (Karras et al., arXiv 2206.00364, algorithm 1)."""
    for sigma, following in itertools.pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
    return x


def dpmpp_2m(denoise: Denoise, x: Any, sigmas: Sequence[float]) -> Any:
    """DPM-Solver++(2M), first order in the first and the last step (Lu et al., arXiv 2211.01095, algorithm 2)."""
    previous, step_before = None, 0.0
    for sigma, following in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        if following == 0:
            return denoised
        step = math.log(sigma / following)
        direction = denoised
        if previous is not None:
            ratio = step / (2 * step_before)
            direction = (1 + ratio) * denoised - ratio * previous
        x = following / sigma * x - math.expm1(-step) * direction
        previous, step_before = denoised, step
    return x


SOLVERS: dict[str, Callable[[Denoise, Any, Sequence[float]], Any]] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
