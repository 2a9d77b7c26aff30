"""DPM-Solver's single steps of order 1 … 3: exponential integrators of eps over the half-log-SNR (Lu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules import Level
from aigc_edge.diffusion.solvers.base import SOLVERS, Step, ancestral, between, first_order, step, symbols
from aigc_edge.errors import ProgramError


@SOLVERS.register("dpm_fast", order=3)
def dpm_fast(
    levels: Sequence[Level], *, evaluations: int | None = None, eta: float = 0.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver-Fast, order 3: three evaluations a step and what is left of `evaluations` in the last ones (Lu et al. 2022,
    appendix D.3; k-diffusion's sample_dpm_fast, with its eta).

    `evaluations` lies within 3 · steps − 3 … 3 · steps − 1, the latter unless given. It wants equal steps of the half-log-SNR
    (spacing exponential). A step from pure noise or to the clean sample is first order, with one evaluation.
    """
    steps = len(levels) - 1
    total = 3 * steps - 1 if evaluations is None else checks.integer(evaluations, "evaluations", 1, 3 * steps - 1)
    if total // 3 + 1 != steps:
        raise ProgramError(f"{steps} steps of dpm_fast have {max(3 * steps - 3, 1)} … {3 * steps - 1} evaluations, not {total}")
    checks.not_negative(eta=eta, s_noise=s_noise)
    orders = [3] * (steps - 2) + [2, 1] if total % 3 == 0 else [3] * (steps - 1) + [total % 3]
    floor = levels[-1].sigma / levels[-1].alpha
    for order, (start, end) in zip(orders, pairwise(levels), strict=True):
        down, fresh = ancestral(start, end, eta)
        if down.sigma < floor * down.alpha:  # noise is not removed beyond the last level
            down = Level(end.alpha, floor * end.alpha)
            fresh = math.sqrt(max(end.sigma**2 - down.sigma**2, 0.0))
        first_order = start.alpha == 0 or down.sigma == 0
        yield from _single(start, down, 1 if first_order else order, s_noise * fresh)


def _single(start: Level, end: Level, order: int, fresh: float) -> Iterator[Step]:
    """One step of `order` evaluations, then noise; slots 1 and 2 hold what the later evaluations add to."""
    x, first, second, d, noise = symbols(3)
    none = 0 * x
    if order == 1:
        yield step(start, first_order(x, d, start, end) + fresh * noise, none, none)
        return
    near, far = start.sigma / start.alpha, end.sigma / end.alpha
    eps, clean = (x - start.alpha * d) / start.sigma, x / start.alpha

    def at(share: float) -> Level:
        return between(start, end, near ** (1 - share) * far**share)

    def slope(level: Level) -> tuple[float, float]:
        """Weights of eps and of its change over the whole way to `level`, both in x / alpha."""
        ratio = level.sigma / level.alpha
        way = math.log(near / ratio)
        return -ratio * math.expm1(way), -ratio * (math.expm1(way) / way - 1)

    if order == 2:
        middle = at(1 / 2)
        yield step(start, middle.alpha * (clean + slope(middle)[0] * eps), clean, none)
        yield step(
            middle, end.alpha * (first + slope(end)[0] * (x - middle.alpha * d) / middle.sigma) + fresh * noise, none, none
        )
        return
    middle, late = at(1 / 3), at(2 / 3)
    (to_late, bend), (to_end, curve) = slope(late), slope(end)
    yield step(
        start,
        middle.alpha * (clean + slope(middle)[0] * eps),
        clean + (to_late - 2 * bend) * eps,
        clean + (to_end - 1.5 * curve) * eps,
    )
    yield step(middle, late.alpha * (first + 2 * bend * (x - middle.alpha * d) / middle.sigma), second, none)
    yield step(late, end.alpha * (first + 1.5 * curve * (x - late.alpha * d) / late.sigma) + fresh * noise, none, none)
