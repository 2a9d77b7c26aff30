"""Samplers that draw noise at every step: consistency models and their kin, and ER-SDE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules import Level
from aigc_edge.diffusion.solvers.base import SOLVERS, Order, Step, first_order, quadrature, step, straight, symbols


@SOLVERS.register("consistency", order=0)
def consistency(levels: Sequence[Level], *, sigma_min: float = 0.0, s_noise: float = 1.0) -> Iterator[Step]:
    """Multistep consistency sampling: each D is a finished sample, but for `sigma_min` (in sigma / alpha) of noise, and gets
    fresh noise up to the next level (Song et al. 2023, algorithm 1)."""
    checks.not_negative(sigma_min=sigma_min, s_noise=s_noise)
    for start, end in pairwise(levels):
        noise = math.sqrt(max(end.sigma**2 - (end.alpha * sigma_min) ** 2, 0.0))
        yield Step(start, ((0.0, end.alpha),), after_noise=(s_noise * noise,))


@SOLVERS.register("lcm", order=0)
def lcm(
    levels: Sequence[Level], timestep: Callable[[Level], float], *, s_noise: float = 1.0, timestep_scaling: float | None = None
) -> Iterator[Step]:
    """Latent consistency sampling (Luo et al. 2023): `consistency` on a latent network.

    `timestep_scaling` (10 in LCM's and diffusers' code) mixes D with the variance-preserving sample by the network's timestep t,
    as c_skip = 0.25 / ((s t)² + 0.25), c_out = s t / sqrt((s t)² + 0.25); beyond the first timesteps that is D. None leaves D.
    """
    if timestep_scaling is None:
        yield from consistency(levels, s_noise=s_noise)
        return
    checks.positive(checks.number(timestep_scaling, "timestep_scaling"), "timestep_scaling")
    for start, end in pairwise(levels):
        time = timestep_scaling * timestep(start)
        keep = 0.25 / (time**2 + 0.25) / math.hypot(*start)
        pull = time / math.hypot(time, 0.5)
        yield Step(start, ((end.alpha * keep, end.alpha * pull),), after_noise=(s_noise * end.sigma,))


@SOLVERS.register("tcd", order=[Order(1, {"gamma": 0.0})])
def tcd(levels: Sequence[Level], *, gamma: float = 0.3) -> Iterator[Step]:
    """Trajectory consistency: without noise to (1 − gamma) of the next level's sigma / alpha, then noise up to it (Zheng et al.
    2024, strategic stochastic sampling, whose gamma counts in timesteps); 0 is DDIM, 1 is `consistency`."""
    checks.number(gamma, "gamma", 0.0, 1.0)
    for start, end in pairwise(levels):
        keep, pull = straight(start, end, (1 - gamma) * end.sigma)
        yield Step(start, ((keep, pull),), after_noise=(end.sigma * math.sqrt(gamma * (2 - gamma)),))


def _scale(ratio: np.ndarray, noise: str) -> np.ndarray:
    """phi of the paper's table 1 (its best SDE), or that of the ODE."""
    return ratio * (np.exp(ratio**0.3) + 10) if noise == "sde" else ratio


@SOLVERS.register(
    "er_sde", order=[Order(2, {"noise": "ode"}), Order(2, {"noise": "ode", "order": 2}), Order(1, {"noise": "ode", "order": 1})]
)
def er_sde(levels: Sequence[Level], *, order: int = 3, noise: str = "sde", s_noise: float = 1.0) -> Iterator[Step]:
    """ER-SDE-Solver: extended reverse-time SDE, order 1 … 3, one evaluation a step (Cui et al. 2023, algorithms 1 to 3).

    `noise` is "sde" (the paper's recommended noise scale) or "ode" (none, with the Taylor expansion in sigma / alpha). The
    integrals are computed by quadrature. A step from pure noise or to the clean sample is first order.
    """
    checks.integer(order, "order", 1, 3)
    checks.number(s_noise, "s_noise", 0.0)
    checks.choice(noise, "noise", "sde", "ode")
    marks = symbols(order)
    x, past, d, fresh = marks[0], marks[1:order], marks[-2], marks[-1]
    points, weights = quadrature(40)
    ratios: list[float] = []  # sigma / alpha of the D at hand, the latest first
    for start, end in pairwise(levels):
        older = [d, *past][: order - 1]
        if start.alpha == 0:  # the limit of the formulas below: nothing of x is left in the SDE
            added = 0.0 if noise == "ode" else s_noise * end.sigma
            yield step(start, first_order(x, d, start, end, end.sigma if noise == "ode" else 0.0) + added * fresh, *older)
            continue
        ratios = [start.sigma / start.alpha, *ratios][:order]
        here, there = ratios[0], end.sigma / end.alpha
        phi_here, phi_there = (float(_scale(np.array(r), noise)) for r in (here, there))
        r = phi_there / phi_here
        moved = end.alpha / start.alpha * r * x + end.alpha * (1 - r) * d
        if there > 0 and len(ratios) > 1:
            half = math.log(here / there) / 2  # quadrature over ln(sigma / alpha)
            u = there * np.exp(half * (1 + points))
            density = half * weights * u / _scale(u, noise)
            change = there - here
            slope = (d - past[0]) / (ratios[0] - ratios[1])
            moved = moved + end.alpha * (change + float(density.sum()) * phi_there) * slope
            if len(ratios) > 2:
                curve = (slope - (past[0] - past[1]) / (ratios[1] - ratios[2])) / ((ratios[0] - ratios[2]) / 2)
                second = change**2 / 2 + float((density * (u - here)).sum()) * phi_there
                moved = moved + end.alpha * second * curve
        left = max(there**2 - (here * r) ** 2, 0.0) if noise == "sde" else 0.0
        yield step(start, moved + s_noise * end.alpha * math.sqrt(left) * fresh, *older)
