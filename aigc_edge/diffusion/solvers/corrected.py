"""Predictor-corrector methods at one evaluation a step: D at the predicted sample corrects that sample, then predicts.

The sample that the network sees is the prediction; slot 1 holds the corrected sample without the part of the D to come.
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
    exponential_weights,
    log_snr,
    step,
    symbols,
    weighted,
)

# (half-log-SNR of the D at hand, the one to come first if there is one; of the start; of the end) → weight of each D
Weights = Callable[[list[float], float, float], np.ndarray]


def _corrected(
    levels: Sequence[Level], orders: tuple[int, int], weigh: Weights, tau: float, lower: bool = False
) -> Iterator[Step]:
    """Steps with `orders` of predictor and corrector (0: none) and SDE strength `tau`; prediction and correction share the noise.

    With `lower` no order is higher than the number of steps that are left.

    A step from pure noise or to the clean sample is first order and not corrected.
    """
    depth = max(orders[0], orders[1]) - 1  # D that are remembered besides the newest
    first = 2 if orders[1] else 1  # without a corrector there is no slot for its base
    marks = symbols(first + max(depth, 0))
    x, base, past, d, noise = marks[0], marks[1], marks[first:-2], marks[-2], marks[-1]
    nodes: list[float] = []
    pending = 0.0  # weight of the newest D in the corrected sample
    corrects = False
    for index, (start, end) in enumerate(pairwise(levels)):
        here, there = log_snr(start), log_snr(end)
        sample = base + pending * d if corrects else x
        history = [d, *past]
        nodes = [here, *nodes] if math.isfinite(here) else []
        gain = there - here
        if math.isinf(gain):
            kept = 1.0 if tau == 0 else 0.0
            pull = end.alpha - kept * start.alpha * end.sigma / start.sigma
            moved = kept * end.sigma / start.sigma * sample + pull * d + end.sigma * (1 - kept) * noise
            yield step(start, moved, *([0 * x] * (first - 1)), *history[: len(past)])
            corrects = False
            continue
        share = tau * tau
        carried = end.sigma / start.sigma * math.exp(-share * gain) * sample
        carried = carried + end.sigma * math.sqrt(-math.expm1(-2 * share * gain)) * noise
        most = len(levels) - 1 - index if lower else len(nodes)
        order = min(orders[0], len(nodes), most)
        predicted = carried + weighted(end.alpha * weigh(nodes[:order], here, there), history)
        corrects = orders[1] > 0 and index < len(levels) - 2
        corrected = 0 * x
        if corrects:
            weights = weigh([there, *nodes[: min(orders[1], len(nodes), most)]], here, there)
            pending = end.alpha * float(weights[0])
            corrected = carried + weighted(end.alpha * weights[1:], history)
        yield step(start, predicted, *([corrected] * (first - 1)), *history[: len(past)])


@SOLVERS.register("unipc", order=[Order(3), Order(3, {"variant": "bh1"}), Order(2, {"order": 1}), Order(3, {"order": 3})])
def unipc(levels: Sequence[Level], *, order: int = 2, variant: str = "bh2", lower_order_final: bool = False) -> Iterator[Step]:
    """UniPC on D, predictor and corrector of order 1 … 3, one evaluation a step; `variant` bh1 or bh2 (Zhao et al. 2023,
    algorithms 5 to 8). With `lower_order_final` no order is higher than the number of steps that are left."""
    checks.integer(order, "order", 1, 3)
    checks.choice(variant, "variant", "bh1", "bh2")

    def weights(nodes: list[float], here: float, there: float) -> np.ndarray:
        h = there - here
        others = [n for n in nodes if n != here]
        r = np.array([(n - here) / h for n in others])
        rate = math.expm1(-h)
        size = -h if variant == "bh1" else rate
        phi, powers, targets = rate / -h - 1, [], []
        for k in range(1, len(others) + 1):
            powers.append(r ** (k - 1))
            targets.append(phi * math.factorial(k) / size)
            phi = phi / -h - 1 / math.factorial(k + 1)
        # With one unknown the paper fixes 1/2, which keeps the order.
        rho = np.array([0.5]) if len(others) == 1 else np.linalg.solve(np.reshape(powers, (len(r), len(r))), targets)
        each = -size * rho / r
        found = {here: -rate - each.sum()} | dict(zip(others, each, strict=True))
        return np.array([found[n] for n in nodes])

    return _corrected(levels, (order, order), weights, 0.0, lower_order_final)


@SOLVERS.register(
    "sa_solver",
    order=[
        Order(3, {"tau": 0.0}),
        Order(2, {"tau": 0.0, "corrector_order": 0}),
        Order(2, {"tau": 0.0, "corrector_order": 1, "few_steps": True}),
        Order(1, {"tau": 0.0, "predictor_order": 1, "corrector_order": 0}),
    ],
)
def sa_solver(
    levels: Sequence[Level],
    *,
    tau: float = 1.0,
    predictor_order: int = 2,
    corrector_order: int = 2,
    few_steps: bool = False,
) -> Iterator[Step]:
    """SA-Solver: stochastic Adams methods on D with SDE strength `tau` (0: the ODE), predictor of order 1 … 4, corrector of order
    0 (none) … 4, one evaluation a step (Xue et al. 2023, algorithm 1).

    `corrector_order` counts the earlier D, as the paper does; the authors' code and diffusers count the new one too. With
    `few_steps` the slope between two D is integrated as they do it for few steps, which leaves the order as it is.
    """
    checks.number(tau, "tau", 0.0, 10.0)
    checks.integer(predictor_order, "predictor_order", 1, 4)
    checks.integer(corrector_order, "corrector_order", 0, 4)

    def weights(nodes: list[float], here: float, there: float) -> np.ndarray:
        rate = 1 + tau * tau
        if not few_steps or len(nodes) != 2:
            return exponential_weights(nodes, here, there, rate)
        h = there - here
        slope = rate * h * h / 2 / (nodes[0] - nodes[1])
        return np.array([slope, -slope]) - math.expm1(-rate * h) * (np.array(nodes) == here)

    return _corrected(levels, (predictor_order, corrector_order), weights, tau)
