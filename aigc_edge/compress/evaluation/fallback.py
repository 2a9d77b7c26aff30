"""Mixed precision by measurement: layers are ranked by the error that each causes alone; the cheapest set falls back to float.

The errors of single layers nearly add up: on a diffusion UNet the sum of the mean squared errors with one layer quantised is 0.85
to 1.0 times the error with all of them quantised. So the sum predicts any mixture, and few mixtures need to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from aigc_edge.compress.evaluation.search import most_sensitive_layers, search
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.errors import BudgetError

Measure = Callable[[Sequence[Layer]], float]  # layers in the format → mean squared error
Progress = Callable[[int, int], None]  # units done, units in all


@dataclass
class Ranking:
    """Mean squared error with all layers in the format, and of each layer alone; `scale` makes the latter relative."""

    everything: float
    alone: dict[str, float] = field(default_factory=dict)
    scale: float = 1.0

    def predicted(self, layers: Sequence[Layer]) -> float:
        """The predicted error with `layers` in the format: their share of the error of all of them."""
        total, part = sum(self.alone.values()), sum(self.alone[layer.name] for layer in layers)
        if not math.isfinite(self.everything):  # all together overflow: fewer may not
            return part
        return self.everything * part / total if total else 0.0


def rank_layers(layers: Sequence[Layer], measure: Measure, everything: float, trials: int, progress: Progress) -> Ranking:
    """Measure every layer alone; with more layers than `trials`, neighbours together, each with an equal part of the error."""
    ranking = Ranking(everything)
    count = min(trials, len(layers))
    for index in range(count):
        group = layers[index * len(layers) // count : (index + 1) * len(layers) // count]
        error = measure(group)
        ranking.alone |= {layer.name: error / len(group) for layer in group}
        progress(index + 1, count)
    return ranking


@dataclass(frozen=True)
class FallbackBudget:
    """How small the mean squared error has to be, and how much of the cost has to stay in the format `name`.

    `cost` of a layer is its bytes or multiply-adds, called `cost_name` in messages; `describe` says of a mean squared error what
    quality that is; `alternative` is what the message recommends when the budget cannot be met.
    """

    target: float
    min_share: float
    describe: Callable[[float], str]
    requested: str = "less error"
    name: str = "int8"
    cost: Callable[[Layer], int] = lambda layer: layer.macs
    cost_name: str = "arithmetic"
    alternative: str = "fp16"


def choose_layers(
    layers: Sequence[Layer], ranking: Ranking, measure: Measure, budget: FallbackBudget
) -> tuple[list[Layer], float]:
    """The layers that stay in the format so that the budget holds, and the measured error of that choice.

    Raises BudgetError, naming the most sensitive layers, when less than `min_share` of the cost would stay in the format.
    """
    if ranking.everything <= budget.target:
        return list(layers), ranking.everything
    best = search(
        _mixtures(layers, ranking, budget),
        measure,
        holds=lambda error: error <= budget.target,
        refuse=lambda first, last: _missed(ranking, budget),
    )
    return best.candidate, best.result


def _mixtures(layers: Sequence[Layer], ranking: Ranking, budget: FallbackBudget) -> Generator[list[Layer], bool, None]:
    """Layers fall back to float in the order of error per cost until a mixture holds; those that need not to, return."""
    total = sum(budget.cost(layer) for layer in layers)
    order = sorted(layers, key=lambda layer: -ranking.alone[layer.name] / (budget.cost(layer) + total / 1000))
    fallen: list[Layer] = []
    for layer in order:
        fallen.append(layer)
        rest = [other for other in layers if other not in fallen]
        if not rest or sum(budget.cost(other) for other in rest) < budget.min_share * total:
            return
        if ranking.predicted(rest) <= budget.target and (yield rest):
            break
    else:
        return
    # In order of error: a layer with a small error is most likely not needed in float.
    for layer in sorted(fallen, key=lambda layer: ranking.alone[layer.name]):
        more = [other for other in layers if other not in fallen or other is layer]
        if len(fallen) > 1 and ranking.predicted(more) <= budget.target and (yield more):
            fallen.remove(layer)


def _missed(ranking: Ranking, budget: FallbackBudget) -> BudgetError:
    return BudgetError(
        f"{budget.name} reaches {budget.describe(ranking.everything)}, {budget.requested} was requested and cannot be held with "
        f"{100 * budget.min_share:.0f} % of the {budget.cost_name} in {budget.name}: the most sensitive layers are "
        f"{most_sensitive_layers(ranking.alone)}; lower the budget, or use {budget.alternative}"
    )
