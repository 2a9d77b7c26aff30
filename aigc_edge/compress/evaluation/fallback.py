"""Decides by measurement which layers stay in float: ranks them by the error that each causes alone, puts back the cheapest set.

The errors of single layers add up, nearly: measured on a diffusion UNet, the sum of the mean squared errors with one layer
quantised is 0.85 to 1.0 of that with all of them. So the sum predicts any mixture, and few mixtures need to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aigc_edge.compress.calibration.trajectory import psnr
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.errors import BudgetError

Measure = Callable[[Sequence[Layer]], float]  # layers in 8 bits → mean squared error of the final sample
Tell = Callable[[int, int], None]
Cost = Callable[[Layer], int]  # what a layer weighs: multiply-adds or bytes


@dataclass
class Ranking:
    """Mean squared error of the final sample with all layers in 8 bits, and with each alone."""

    everything: float
    alone: dict[str, float] = field(default_factory=dict)

    def predicted(self, layers: Sequence[Layer]) -> float:
        """The error with `layers` in 8 bits: their share of what all of them cause together."""
        total, part = sum(self.alone.values()), sum(self.alone[layer.name] for layer in layers)
        if not math.isfinite(self.everything):  # all together overflow: fewer may not
            return part
        return self.everything * part / total if total else 0.0


def rank(layers: Sequence[Layer], measure: Measure, everything: float, trials: int, tell: Tell) -> Ranking:
    """Measure every layer alone; with more layers than `trials`, neighbours together, each blamed for an equal part."""
    ranking = Ranking(everything)
    count = min(trials, len(layers))
    for index in range(count):
        group = layers[index * len(layers) // count : (index + 1) * len(layers) // count]
        error = measure(group)
        ranking.alone |= {layer.name: error / len(group) for layer in group}
        tell(index + 1, count)
    return ranking


def choose(
    layers: Sequence[Layer],
    ranking: Ranking,
    measure: Measure,
    target: float,
    min_share: float,
    limits: tuple[float, float],
    *,
    name: str = "int8",
    cost: Cost | None = None,
) -> tuple[list[Layer], float]:
    """The layers that stay in the format `name` so that the error is at most `target`, and the measured error of that choice.

    Layers return to float in the order of error per `cost` (their multiply-adds when None, or their bytes), until a measurement
    holds the target; then those that turn out not to be needed go back. Raises BudgetError, with the worst layers, when less than
    `min_share` of the cost would remain in the format.
    """
    of = cost or (lambda layer: layer.macs)
    if ranking.everything <= target:
        return list(layers), ranking.everything
    total = sum(of(layer) for layer in layers)
    order = sorted(layers, key=lambda layer: -ranking.alone[layer.name] / (of(layer) + total / 1000))
    restored: list[Layer] = []
    error = ranking.everything
    for layer in order:
        restored.append(layer)
        kept = [other for other in layers if other not in restored]
        if sum(of(other) for other in kept) < min_share * total or not kept:
            raise _missed(ranking, target, limits, _share(min_share, name, cost), name)
        if ranking.predicted(kept) > target:
            continue
        error = measure(kept)
        if error <= target:
            break
    else:
        raise _missed(ranking, target, limits, _share(min_share, name, cost), name)
    # From the back: what was put back last, or errs least, is most likely not needed.
    for layer in sorted(restored, key=lambda layer: ranking.alone[layer.name]):
        kept = [other for other in layers if other not in restored or other is layer]
        if len(restored) > 1 and ranking.predicted(kept) <= target and (trial := measure(kept)) <= target:
            restored.remove(layer)
            error = trial
    return [layer for layer in layers if layer not in restored], error


def most_sensitive_layers(alone: dict[str, float], count: int = 3) -> str:
    """The layers that err most when quantised alone, with their share of the error, as part of a sentence."""
    total = sum(alone.values())
    if not 0 < total < math.inf:  # a layer that overflows alone says enough
        return ", ".join([name for name in alone if alone[name] == math.inf][:count]) or "none of them alone"
    worst = sorted(alone, key=lambda name: -alone[name])[:count]
    return ", ".join(f"{name} ({100 * alone[name] / total:.0f} % of the error)" for name in worst)


def _share(share: float, name: str, cost: Cost | None) -> str:
    return f"{100 * share:.0f} % of the {'arithmetic' if cost is None else 'weights'} in {name}"


def _missed(ranking: Ranking, target: float, limits: tuple[float, float], share: str, name: str) -> BudgetError:
    reached, asked = psnr(ranking.everything, limits), psnr(target, limits)
    return BudgetError(
        f"{name} reaches {reached:.1f} dB (PSNR against fp32 from the same noise), {asked:.1f} dB was asked for and cannot be "
        f"held with {share}: to blame are {most_sensitive_layers(ranking.alone)}; ask for less, or take "
        f"{'fp16' if name == 'int8' else 'another format'}"
    )
