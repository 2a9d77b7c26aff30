"""One-step methods in sigma: Euler, Heun, midpoint and their stochastic forms.

With alpha = 1 everything below is what k-diffusion and EDM do; with alpha = 1 − t, sigma = t it is the same method for flow
networks, where alpha = 0 at t = 1. Where alpha is linear in sigma (both cases) the ODE is dx/dsigma = (x − b D) / sigma, with b
the alpha that the line has at sigma = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules import Level
from aigc_edge.diffusion.solvers.base import (
    SOLVERS,
    Order,
    Step,
    ancestral,
    between,
    first_order,
    step,
    straight,
    symbols,
)


def _churn(start: Level, steps: int, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> tuple[Level, float]:
    """The noisier level that a step starts from and the scale of the noise that leads there (Karras et al. 2022, algorithm 2)."""
    checks.not_negative(s_churn=s_churn, s_noise=s_noise)
    if not s_tmin <= start.sigma <= s_tmax:
        return start, 0.0
    hat = start.sigma * (1 + min(s_churn / steps, math.sqrt(2) - 1))
    return Level(start.alpha, hat), s_noise * math.sqrt(hat**2 - start.sigma**2)


@SOLVERS.register("euler", order=1)
def euler(
    levels: Sequence[Level], *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
) -> Iterator[Step]:
    """Euler's method in sigma, order 1 (Karras et al. 2022, algorithm 2 without the correction)."""
    for start, end in pairwise(levels):
        hat, noise = _churn(start, len(levels) - 1, s_churn, s_tmin, s_tmax, s_noise)
        keep, pull = straight(hat, end, end.sigma)
        yield Step(hat, ((keep, pull),), before_noise=(noise,))


@SOLVERS.register("heun", order=2)
def heun(
    levels: Sequence[Level], *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
) -> Iterator[Step]:
    """Heun's method in sigma, order 2, two evaluations a step, one in a last step to sigma 0 (Karras et al. 2022, algorithm 2).

    With h = sigma' − sigma and slopes d = (x − b D) / sigma: the first row leaves x' = x + h d and x + h d / 2, the second adds
    h d' / 2 to the latter.
    """
    for start, end in pairwise(levels):
        hat, noise = _churn(start, len(levels) - 1, s_churn, s_tmin, s_tmax, s_noise)
        keep, pull = straight(hat, end, end.sigma)
        if end.sigma == 0:
            yield Step(hat, ((keep, 0.0, pull), (0.0, 0.0, 0.0)), before_noise=(noise, 0.0))
            continue
        yield Step(hat, ((keep, 0.0, pull), ((1 + keep) / 2, 0.0, pull / 2)), before_noise=(noise, 0.0))
        h = end.sigma - hat.sigma
        b = (hat.alpha * end.sigma - end.alpha * hat.sigma) / h
        half = h / (2 * end.sigma)
        yield Step(end, ((half, 1.0, -half * b), (0.0, 0.0, 0.0)))


def _ancestral(start: Level, end: Level, eta: float) -> tuple[float, float, float]:
    """(keep, pull, noise) of x' = keep · x + pull · D + noise · eps."""
    down, fresh = ancestral(start, end, eta)
    return *straight(start, end, down.sigma), fresh


@SOLVERS.register("ddim", order=1)
def ddim(levels: Sequence[Level], *, eta: float = 0.0) -> Iterator[Step]:
    """DDIM, order 1 (Song et al. 2021, equations 12 and 16); eta = 0 is deterministic and equals `euler`, eta = 1 is DDPM."""
    checks.number(eta, "eta", 0.0, 1.0)
    return euler_ancestral(levels, eta=eta)


@SOLVERS.register("euler_ancestral", order=[Order(1, {"eta": 0.0})])
def euler_ancestral(levels: Sequence[Level], *, eta: float = 1.0, s_noise: float = 1.0) -> Iterator[Step]:
    """Euler down to sigma_down, then fresh noise of sigma_up: k-diffusion's ancestral Euler, where eta may exceed 1.

    With sigma/alpha in place of sigma it is DDIM's stochastic step, so alpha != 1 is covered too (Song et al. 2021, equation 12).
    """
    checks.not_negative(eta=eta, s_noise=s_noise)
    for start, end in pairwise(levels):
        keep, pull, noise = _ancestral(start, end, eta)
        yield Step(start, ((keep, pull),), after_noise=(s_noise * noise,))


@SOLVERS.register("ddpm", order=1)
def ddpm(levels: Sequence[Level], *, variance: str = "small") -> Iterator[Step]:
    """Ancestral sampling, order 1, of the posterior's `variance` (small) or the forward step's beta (large) (Ho et al. 2020)."""
    checks.choice(variance, "variance", "small", "large")
    for start, end in pairwise(levels):
        keep, pull, noise = _ancestral(start, end, 1.0)
        if variance == "large" and end.sigma > 0:
            scale = math.hypot(*end)  # to variance-preserving coordinates, where beta is defined
            noise = scale * math.sqrt(1 - (start.alpha / math.hypot(*start) * scale / end.alpha) ** 2)
        yield Step(start, ((keep, pull),), after_noise=(noise,))


def _midpoint(start: Level, middle: Level, end: Level, fresh: float) -> Iterator[Step]:
    """Two rows: to `middle`, and from `start` to `end` with the slope there."""
    x, kept, d, noise = symbols(2)
    yield step(start, first_order(x, d, start, middle), x)
    h = end.sigma - start.sigma
    b = (start.alpha * end.sigma - end.alpha * start.sigma) / h
    yield step(middle, kept + h / middle.sigma * (x - b * d) + fresh * noise, 0 * x)


@SOLVERS.register("midpoint", order=2)
def midpoint(levels: Sequence[Level]) -> Iterator[Step]:
    """The explicit midpoint method in sigma, order 2, two evaluations a step."""
    for start, end in pairwise(levels):
        yield from _midpoint(start, Level((start.alpha + end.alpha) / 2, (start.sigma + end.sigma) / 2), end, 0.0)


@SOLVERS.register("dpm2", order=2)
def dpm2(
    levels: Sequence[Level], *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
) -> Iterator[Step]:
    """k-diffusion's DPM2, order 2: the midpoint method half-way in ln(sigma / alpha), with Karras's churn; Euler to sigma 0 and
    from alpha 0."""
    for start, end in pairwise(levels):
        hat, noise = _churn(start, len(levels) - 1, s_churn, s_tmin, s_tmax, s_noise)
        first, *second = _dpm2(hat, end, 0.0)
        yield first._replace(before_noise=(noise, 0.0))
        yield from second


def _dpm2(start: Level, down: Level, fresh: float) -> Iterator[Step]:
    """From `start` to `down` with the slope at the middle of ln(sigma / alpha), then noise."""
    x, _, d, noise = symbols(2)
    if start.alpha == 0 or down.sigma == 0:
        yield step(start, first_order(x, d, start, down) + fresh * noise, 0 * x)
        return
    middle = between(start, down, math.sqrt(start.sigma / start.alpha * down.sigma / down.alpha))
    yield from _midpoint(start, middle, down, fresh)


@SOLVERS.register("dpm2_ancestral", order=[Order(2, {"eta": 0.0})])
def dpm2_ancestral(levels: Sequence[Level], *, eta: float = 1.0, s_noise: float = 1.0) -> Iterator[Step]:
    """DPM2 down to sigma_down, then fresh noise of sigma_up (k-diffusion's sample_dpm_2_ancestral)."""
    checks.not_negative(eta=eta, s_noise=s_noise)
    for start, end in pairwise(levels):
        down, fresh = ancestral(start, end, eta)
        yield from _dpm2(start, down, s_noise * fresh)
