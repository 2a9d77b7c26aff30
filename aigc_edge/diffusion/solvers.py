"""Solvers: each is one generator of steps over falling noise levels, written from its paper.

A level is (alpha, sigma) with x = alpha · x0 + sigma · eps. With alpha = 1 everything below is what k-diffusion and EDM do; with
alpha = 1 − t, sigma = t it is the same method for flow networks, where alpha = 0 at t = 1. Where alpha is linear in sigma
(both cases) the ODE is dx/dsigma = (x − b D) / sigma, with b the alpha that the line has at sigma = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.program import Matrix
from aigc_edge.diffusion.schedule import Level
from aigc_edge.registry import Registry


class Step(NamedTuple):
    """A row before it knows its network: the level of the evaluation and what becomes of the slots (see `Row`)."""

    level: Level
    after: Matrix
    after_noise: tuple[float, ...] | None = None
    before_noise: tuple[float, ...] | None = None
    before: Matrix | None = None


Solver = Callable[..., Iterator[Step]]
SOLVERS: Registry[Solver] = Registry("solver", "aigc_edge.diffusion")


def _straight(start: Level, end: Level, sigma_end: float) -> tuple[float, float]:
    """(keep, pull) of x' = keep · x + pull · D: noise and image stay as predicted, the noise is scaled down to `sigma_end`."""
    return sigma_end / start.sigma, (end.alpha * start.sigma - start.alpha * sigma_end) / start.sigma


def _churn(start: Level, steps: int, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> tuple[Level, float]:
    """The noisier level that a step starts from and the scale of the noise that leads there (Karras et al. 2022, algorithm 2)."""
    checks.number(s_churn, "s_churn", 0.0)
    checks.number(s_noise, "s_noise", 0.0)
    if not s_tmin <= start.sigma <= s_tmax:
        return start, 0.0
    hat = start.sigma * (1 + min(s_churn / steps, math.sqrt(2) - 1))
    return Level(start.alpha, hat), s_noise * math.sqrt(hat**2 - start.sigma**2)


@SOLVERS.register("euler")
def euler(
    levels: Sequence[Level], *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
) -> Iterator[Step]:
    """Euler's method in sigma, order 1 (Karras et al. 2022, algorithm 2 without the correction)."""
    for start, end in pairwise(levels):
        hat, noise = _churn(start, len(levels) - 1, s_churn, s_tmin, s_tmax, s_noise)
        keep, pull = _straight(hat, end, end.sigma)
        yield Step(hat, ((keep, pull),), before_noise=(noise,))


@SOLVERS.register("heun")
def heun(
    levels: Sequence[Level], *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
) -> Iterator[Step]:
    """Heun's method in sigma, order 2, two evaluations a step, one in a last step to sigma 0 (Karras et al. 2022, algorithm 2).

    With h = sigma' − sigma and slopes d = (x − b D) / sigma: the first row leaves x' = x + h d and x + h d / 2, the second adds
    h d' / 2 to the latter.
    """
    for start, end in pairwise(levels):
        hat, noise = _churn(start, len(levels) - 1, s_churn, s_tmin, s_tmax, s_noise)
        keep, pull = _straight(hat, end, end.sigma)
        if end.sigma == 0:
            yield Step(hat, ((keep, 0.0, pull), (0.0, 0.0, 0.0)), before_noise=(noise, 0.0))
            continue
        yield Step(hat, ((keep, 0.0, pull), ((1 + keep) / 2, 0.0, pull / 2)), before_noise=(noise, 0.0))
        h = end.sigma - hat.sigma
        b = (hat.alpha * end.sigma - end.alpha * hat.sigma) / h
        half = h / (2 * end.sigma)
        yield Step(end, ((half, 1.0, -half * b), (0.0, 0.0, 0.0)))


def _ancestral(start: Level, end: Level, eta: float) -> tuple[float, float, float]:
    """(keep, pull, noise): of the noise at `end`, `noise` is fresh, the rest as predicted; eta = 1 samples q(x' | x, x0 = D)."""
    ratio = end.sigma / start.sigma * (start.alpha / end.alpha)
    # Shares of the new variance, written so that nothing cancels at eta = 1.
    kept = max((1 - eta) * (1 + eta) + (eta * ratio) ** 2, 0.0)
    fresh = min(eta**2 * (1 - ratio) * (1 + ratio), 1.0)
    return *_straight(start, end, end.sigma * math.sqrt(kept)), end.sigma * math.sqrt(fresh)


@SOLVERS.register("ddim")
def ddim(levels: Sequence[Level], *, eta: float = 0.0) -> Iterator[Step]:
    """DDIM, order 1 (Song et al. 2021, equations 12 and 16); eta = 0 is deterministic and equals `euler`, eta = 1 is DDPM."""
    checks.number(eta, "eta", 0.0, 1.0)
    for start, end in pairwise(levels):
        keep, pull, noise = _ancestral(start, end, eta)
        yield Step(start, ((keep, pull),), after_noise=(noise,))


@SOLVERS.register("euler_ancestral")
def euler_ancestral(levels: Sequence[Level], *, eta: float = 1.0, s_noise: float = 1.0) -> Iterator[Step]:
    """Euler down to sigma_down, then fresh noise of sigma_up: k-diffusion's ancestral Euler, where eta may exceed 1.

    With sigma/alpha in place of sigma it is DDIM's stochastic step, so alpha != 1 is covered too (Song et al. 2021, equation 12).
    """
    checks.number(eta, "eta", 0.0)
    checks.number(s_noise, "s_noise", 0.0)
    for start, end in pairwise(levels):
        keep, pull, noise = _ancestral(start, end, eta)
        yield Step(start, ((keep, pull),), after_noise=(s_noise * noise,))


@SOLVERS.register("dpmpp_2m")
def dpmpp_2m(levels: Sequence[Level], *, lower_order_final: bool = False) -> Iterator[Step]:
    """DPM-Solver++(2M), order 2, one evaluation a step; slot 1 is the previous D (Lu et al. 2022, algorithm 2).

    D is extrapolated along the half-log-SNR. After a step from alpha = 0, where that is infinite, the limit is no extrapolation;
    in a step to sigma 0 there is no limit, so it is first order (x' = D), as any last step is with `lower_order_final`.
    """
    before = math.inf  # the previous step's gain of half-log-SNR; there is no previous D in the first step
    for index, (start, end) in enumerate(pairwise(levels)):
        keep, pull = _straight(start, end, end.sigma)
        clean, last = end.sigma == 0, index == len(levels) - 2
        gain = math.inf if clean or start.alpha == 0 else math.log(end.alpha / start.alpha) + math.log(start.sigma / end.sigma)
        first_order = clean or start.alpha == 0 or (last and lower_order_final) or not 0 < before < math.inf
        more = 0.0 if first_order else gain / (2 * before)
        yield Step(start, ((keep, 0.0 - pull * more, pull * (1 + more)), (0.0, 0.0, 1.0)))
        before = gain
