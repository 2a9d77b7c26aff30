"""DPM-Solver++: exponential integrators of D over the half-log-SNR (Lu et al. 2022), and k-diffusion's SDE forms."""

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
    log_snr,
    step,
    straight,
    symbols,
)


@SOLVERS.register("dpmpp_2m", order=2)
def dpmpp_2m(levels: Sequence[Level], *, lower_order_final: bool = False) -> Iterator[Step]:
    """DPM-Solver++(2M), order 2, one evaluation a step; slot 1 is the previous D (Lu et al. 2022, algorithm 2).

    D is extrapolated along the half-log-SNR. After a step from alpha = 0, where that is infinite, the limit is no extrapolation;
    in a step to sigma 0 there is no limit, so it is first order (x' = D), as any last step is with `lower_order_final`.
    """
    before = math.inf  # the previous step's gain of half-log-SNR; there is no previous D in the first step
    for index, (start, end) in enumerate(pairwise(levels)):
        keep, pull = straight(start, end, end.sigma)
        clean, last = end.sigma == 0, index == len(levels) - 2
        gain = math.inf if clean or start.alpha == 0 else math.log(end.alpha / start.alpha) + math.log(start.sigma / end.sigma)
        first_order = clean or start.alpha == 0 or (last and lower_order_final) or not 0 < before < math.inf
        more = 0.0 if first_order else gain / (2 * before)
        yield Step(start, ((keep, 0.0 - pull * more, pull * (1 + more)), (0.0, 0.0, 1.0)))
        before = gain


def _multistep(levels: Sequence[Level], order: int, eta: float, s_noise: float, heun: bool) -> Iterator[Step]:
    """Steps of order `order` with the share `eta` of noise: h (1 + eta) is how far D counts, as in sde-dpmsolver++."""
    checks.not_negative(eta=eta, s_noise=s_noise)
    marks = symbols(order)
    x, past, d, noise = marks[0], marks[1:order], marks[-2], marks[-1]
    gains: list[float] = []  # of half-log-SNR, the last step first
    for start, end in pairwise(levels):
        h = log_snr(end) - log_snr(start)
        older = [d, *past][: order - 1]
        if math.isinf(h):  # from pure noise, or to the clean sample
            kept = 1.0 if eta == 0 else 0.0
            pull = end.alpha - kept * start.alpha * end.sigma / start.sigma
            fresh = end.sigma * (1 - kept)
            yield step(start, kept * end.sigma / start.sigma * x + pull * d + s_noise * fresh * noise, *older)
            gains = []
            continue
        far = h * (1 + eta)
        moved = end.sigma / start.sigma * math.exp(-eta * h) * x - end.alpha * math.expm1(-far) * d
        phi2 = end.alpha * (math.expm1(-far) / far + 1)
        phi3 = phi2 / far - end.alpha / 2
        if len(gains) >= 2 and order == 3:
            r0, r1 = gains[0] / h, gains[1] / h
            near, next_ = (d - past[0]) / r0, (past[0] - past[1]) / r1
            moved = moved + phi2 * (near + (near - next_) * r0 / (r0 + r1)) - phi3 * (near - next_) / (r0 + r1)
        elif gains and order >= 2:
            weight = phi2 if heun or order == 3 else -end.alpha * math.expm1(-far) / 2
            moved = moved + weight * (d - past[0]) * (h / gains[0])
        fresh = end.sigma * math.sqrt(-math.expm1(-2 * eta * h))
        yield step(start, moved + s_noise * fresh * noise, *older)
        gains = [h, *gains]


@SOLVERS.register("dpmpp_2m_sde", order=[Order(2, {"eta": 0.0}), Order(2, {"eta": 0.0, "solver_type": "heun"})])
def dpmpp_2m_sde(
    levels: Sequence[Level], *, eta: float = 1.0, s_noise: float = 1.0, solver_type: str = "midpoint"
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M), 2 slots; `solver_type` midpoint or heun (Lu et al. 2022, appendix; k-diffusion's eta)."""
    checks.choice(solver_type, "solver_type", "midpoint", "heun")
    return _multistep(levels, 2, eta, s_noise, solver_type == "heun")


@SOLVERS.register("dpmpp_3m", order=2)
def dpmpp_3m(levels: Sequence[Level]) -> Iterator[Step]:
    """DPM-Solver++(3M), one evaluation a step; slots 1 and 2 are the previous D (Lu et al. 2022, appendix; k-diffusion).

    As published it weighs the second difference by half of what the third order needs; `res_multistep` with order 3 does not.
    """
    return _multistep(levels, 3, 0.0, 0.0, False)


@SOLVERS.register("dpmpp_3m_sde", order=[Order(2, {"eta": 0.0})])
def dpmpp_3m_sde(levels: Sequence[Level], *, eta: float = 1.0, s_noise: float = 1.0) -> Iterator[Step]:
    """SDE form of DPM-Solver++(3M), 3 slots (k-diffusion's sample_dpmpp_3m_sde)."""
    return _multistep(levels, 3, eta, s_noise, False)


@SOLVERS.register("dpmpp_2s", order=2)
def dpmpp_2s(levels: Sequence[Level], *, eta: float = 0.0, s_noise: float = 1.0) -> Iterator[Step]:
    """DPM-Solver++(2S), order 2, two evaluations a step, the second half-way in half-log-SNR (Lu et al. 2022, algorithm 1).

    With `eta` it is k-diffusion's ancestral form. A step from pure noise or to the clean sample is first order.
    """
    checks.not_negative(eta=eta, s_noise=s_noise)
    x, kept, d, noise = symbols(2)
    for start, end in pairwise(levels):
        down, fresh = ancestral(start, end, eta)
        keep, pull = straight(start, end, down.sigma)
        if start.alpha == 0 or down.sigma == 0:
            yield step(start, keep * x + pull * d + s_noise * fresh * noise, 0 * x)
            continue
        middle = between(start, down, math.sqrt(start.sigma / start.alpha * down.sigma / down.alpha))
        yield step(start, first_order(x, d, start, middle), keep * x)
        yield step(middle, kept + pull * d + s_noise * fresh * noise, 0 * x)


@SOLVERS.register("dpmpp_sde", order=[Order(2, {"eta": 0.0})])
def dpmpp_sde(levels: Sequence[Level], *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5) -> Iterator[Step]:
    """DPM-Solver++ (SDE) with two evaluations a step and one Brownian path for both (k-diffusion's sample_dpmpp_sde).

    The second evaluation is the share `r` (0 … 1) of the step's half-log-SNR away. The noise of the whole step contains that of
    its first part, in shares of sigma / alpha.
    """
    checks.not_negative(eta=eta, s_noise=s_noise)
    checks.number(r, "r", 0.01, 1.0)
    x, kept, d, noise = symbols(2)
    for start, end in pairwise(levels):
        down, fresh = ancestral(start, end, eta)
        keep, pull = straight(start, end, down.sigma)
        if start.alpha == 0 or end.sigma == 0:
            yield step(start, keep * x + pull * d + s_noise * fresh * noise, 0 * x)
            continue
        ratios = start.sigma / start.alpha, end.sigma / end.alpha
        middle = between(start, end, ratios[0] ** (1 - r) * ratios[1] ** r)
        half, half_fresh = ancestral(start, middle, eta)
        share = min((ratios[0] - middle.sigma / middle.alpha) / (ratios[0] - ratios[1]), 1.0)
        first, second = s_noise * fresh * math.sqrt(share), s_noise * fresh * math.sqrt(1 - share)
        later = 1 / (2 * r)  # weight of the second D
        carried = keep * x + (1 - later) * pull * d + first * noise
        yield step(start, first_order(x, d, start, middle, half.sigma) + s_noise * half_fresh * noise, carried)
        yield step(middle, kept + later * pull * d + second * noise, 0 * x)
