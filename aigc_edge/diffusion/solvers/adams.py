"""Adams-Bashforth methods: what earlier evaluations said is extrapolated by a polynomial and integrated exactly.

They differ in what is extrapolated (eps or D), in which variable, and whether the coefficients know the spacing of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules import Level
from aigc_edge.diffusion.solvers.base import (
    SOLVERS,
    Order,
    Step,
    between,
    exponential_weights,
    first_order,
    lagrange,
    log_snr,
    step,
    straight,
    symbols,
    weighted,
)

_FIXED = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _ratio(level: Level) -> float:
    return level.sigma / level.alpha


def _of_eps(levels: Sequence[Level], order: int, weights: Callable[[list[Level], Level], np.ndarray]) -> Iterator[Step]:
    """x' / alpha' = x / alpha + sum of weights · eps; slots 1 … are earlier eps. From alpha = 0 a step is Euler's and leaves no
    node behind, since its sigma / alpha is infinite."""
    marks = symbols(order)
    x, past, d = marks[0], marks[1:order], marks[-2]
    nodes: list[Level] = []  # the latest first
    for start, end in pairwise(levels):
        known = [(x - start.alpha * d) / start.sigma, *past]
        nodes = [start, *nodes][:order] if start.alpha else []
        if len(nodes) > 1:
            moved = end.alpha / start.alpha * x + end.alpha * weighted(weights(nodes, end), known)
        else:
            moved = first_order(x, d, start, end)
        yield step(start, moved, *known[: order - 1])


@SOLVERS.register("lms", order=[Order(2), Order(1, {"order": 1}), Order(2, {"order": 2})])
def lms(levels: Sequence[Level], *, order: int = 4) -> Iterator[Step]:
    """Linear multistep: eps as a polynomial in sigma / alpha, order 1 … 4, one evaluation a step (k-diffusion's sample_lms)."""
    checks.integer(order, "order", 1, 4)

    def weights(nodes: list[Level], end: Level) -> np.ndarray:
        first, scale = _ratio(nodes[0]), abs(_ratio(end) - _ratio(nodes[0]))
        basis = lagrange([(_ratio(n) - first) / scale for n in nodes])
        return -scale * basis @ np.array([(-1.0) ** k / (k + 1) for k in range(len(nodes))])

    return _of_eps(levels, order, weights)


@SOLVERS.register("deis", order=[Order(2), Order(2, {"order": 2})])
def deis(levels: Sequence[Level], *, order: int = 3) -> Iterator[Step]:
    """DEIS (tAB): eps as a polynomial in ln(sigma / alpha), order 1 … 4 (Zhang and Chen 2023); Euler in a step to sigma 0."""
    checks.integer(order, "order", 1, 4)

    def weights(nodes: list[Level], end: Level) -> np.ndarray:
        if end.sigma == 0:
            return np.array([-_ratio(nodes[0])])
        return _ratio(end) * exponential_weights(
            [math.log(_ratio(n)) for n in nodes], math.log(_ratio(nodes[0])), math.log(_ratio(end))
        )

    return _of_eps(levels, order, weights)


@SOLVERS.register("ipndm", order=[Order(2, equal_steps=True), Order(2, {"order": 2}, equal_steps=True)])
def ipndm(levels: Sequence[Level], *, order: int = 4) -> Iterator[Step]:
    """Improved PNDM: Adams-Bashforth's coefficients for even steps on eps, order 1 … 4, warmed up by its own lower orders
    (Zhang and Chen 2023)."""
    checks.integer(order, "order", 1, 4)
    return _of_eps(levels, order, lambda nodes, end: (_ratio(end) - _ratio(nodes[0])) * np.array(_FIXED[len(nodes) - 1]))


@SOLVERS.register("pndm", order=[Order(4, equal_steps=True), Order(2, {"warm_up": "heun"}, equal_steps=True)])
def pndm(levels: Sequence[Level], *, warm_up: str = "runge_kutta") -> Iterator[Step]:
    """PNDM: three Runge-Kutta steps of four evaluations, then Adams-Bashforth of order 4 for even steps (Liu et al. 2022).

    The half-way evaluations are in the middle of sigma / alpha. With `warm_up` "heun" it begins with one step of two evaluations
    and lower orders instead, as latent diffusion does (PLMS; diffusers' skip_prk_steps). A first step from alpha = 0 is Euler's,
    as is a step of several evaluations to sigma 0, where eps cannot be evaluated.
    """
    checks.choice(warm_up, "warm_up", "runge_kutta", "heun")
    x, kept, e1, e2, e3, d, _ = symbols(5)  # e1 … e3: eps at the start of earlier steps, the latest first
    none, warm = 0 * x, 0
    alone = 3 if warm_up == "runge_kutta" else 1  # steps until one evaluation is enough
    for start, end in pairwise(levels):
        eps = (x - start.alpha * d) / start.sigma
        if start.alpha == 0 or (warm < alone and end.sigma == 0):
            yield step(start, first_order(x, d, start, end), none, e1, e2, e3)
            continue
        carry, h = end.alpha / start.alpha, end.alpha * (_ratio(end) - _ratio(start))
        if warm >= alone:
            mixed = weighted(_FIXED[min(warm, 3)], (eps, e1, e2, e3))
            yield step(start, carry * x + h * mixed, none, eps, e1, e2)
            warm += 1
            continue
        warm += 1
        if warm_up == "heun":
            slope = (x - end.alpha * d) / end.sigma
            yield step(start, carry * x + h * eps, x, eps, e1, e2)
            yield step(end, carry * kept + h * (e1 + slope) / 2, none, e1, e2, e3)
            continue
        middle = between(start, end, (_ratio(start) + _ratio(end)) / 2)
        to_middle, half = middle.alpha / start.alpha, middle.alpha * (_ratio(end) - _ratio(start)) / 2
        slope = (x - middle.alpha * d) / middle.sigma
        before = (x - to_middle * kept) / half  # the slope that led to the second evaluation in the middle
        yield step(start, to_middle * x + half * eps, x, eps, e1, e2)
        yield step(middle, to_middle * kept + half * slope, kept, e1, e2, e3)
        gathered = carry * kept + h * (e1 / 6 + before / 3 + slope / 3)
        yield step(middle, carry * kept + h * slope, gathered, e1, e2, e3)
        slope = (x - end.alpha * d) / end.sigma
        yield step(end, kept + h * slope / 6, none, e1, e2, e3)


@SOLVERS.register("res_multistep", order=[Order(2), Order(2, {"order": 3})])
def res_multistep(levels: Sequence[Level], *, order: int = 2) -> Iterator[Step]:
    """Refined exponential solver, multistep: D as a polynomial in the half-log-SNR integrated exactly, order 1 … 3 (Zhang et al.
    2023, "Improved order analysis and design of exponential integrator for diffusion models sampling")."""
    checks.integer(order, "order", 1, 3)
    marks = symbols(order)
    x, past, d = marks[0], marks[1:order], marks[-2]
    nodes: list[float] = []
    for start, end in pairwise(levels):
        here, there = log_snr(start), log_snr(end)
        known = [d, *past]
        if math.isinf(there - here):  # from pure noise, or to the clean sample
            nodes, moved = [], first_order(x, d, start, end)
        else:
            nodes = [here, *nodes][:order]
            moved = straight(start, end, end.sigma)[0] * x + weighted(end.alpha * exponential_weights(nodes, here, there), known)
        yield step(start, moved, *known[: order - 1])
