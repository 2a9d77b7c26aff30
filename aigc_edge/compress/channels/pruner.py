"""Selects the channels to remove: those with the least error per multiply-add that is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from aigc_edge.compress.calibration.compute_budget import dry_run
from aigc_edge.compress.calibration.trajectory import Evaluate, mean_square
from aigc_edge.compress.channels.cut import cut
from aigc_edge.compress.channels.refit import InputMoments
from aigc_edge.compress.channels.trace import trace
from aigc_edge.compress.channels.units import ChannelGroup, ChannelUnit, Costs, groups_of
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs import graph
from aigc_edge.errors import BudgetError

KEEP = 1 / 8  # of a group's channels that always stay
LEVELS = (0.25, 0.5, 0.75, 0.875)  # shares of a group's units removed to measure it; of many groups only half
RANK = 2e12  # multiply-adds of measuring whole trajectories; beyond, single evaluations are compared
SAMPLES = 4  # whose trajectories are compared
TRIALS = 64  # measurements; groups beyond, with few multiply-adds, are assumed to have the median error


class ChannelPruner:
    """The channel groups of a network, with the energy of their units along the trajectory and the error of losing them."""

    def __init__(self, model: onnx.ModelProto, reference: HeldOutReference, progress: Callable[[int, int], None]) -> None:
        self.state = trace(model)
        self.costs = Costs(self.state)
        self.groups = groups_of(self.state, self.costs)
        if not self.groups:
            raise BudgetError(
                "the network has no inner channels that could be pruned (sums or outputs need all of them): use another format"
            )
        self.inputs = InputMoments(self.state, reference.calibration_records, reference.threads)
        self.inputs.weigh(self.groups, self.costs)
        for group in self.groups:
            group.units.sort(key=lambda unit: unit.energy)
        self.total = self.costs.macs()
        by_cost = sorted(self.groups, key=lambda group: self.costs.macs({unit.root for unit in group.units}))
        levels = LEVELS if len(LEVELS) * len(by_cost) <= TRIALS else (0.5,)
        measure = self._measure(reference, len(levels) * len(by_cost[:TRIALS]))
        trials = [(group, level) for group in by_cost[:TRIALS] for level in levels]
        for done, (group, level) in enumerate(trials):
            count = max(1, int(len(group.units) * level))
            part = count / len(group.units)
            if not group.curve or part > group.curve[-1][0]:
                removed = {unit.root for unit in group.units[:count]}
                error = measure(graph.Network(self.build(removed), threads=reference.threads))
                group.curve.append((part, max(error, group.curve[-1][1] if group.curve else 0.0)))
            progress(done + 1, len(trials))
        for group in by_cost[TRIALS:]:
            group.curve = [(0.5, float(np.median([other.error(0.5) for other in by_cost[:TRIALS]])))]

    def _measure(self, reference: HeldOutReference, count: int) -> Callable[[Evaluate], float]:
        """How errors are measured: on final samples, or on single evaluations when `count` trajectories would take too long."""
        some = reference.calibration.calibrating().with_new_noise(SAMPLES, 0)
        evaluations = sum(len(next(iter(record.inputs.values()))) for record in dry_run(some))
        if count * SAMPLES * evaluations * self.total > RANK:
            return reference.output_error
        expected = some.run(graph.Network(self.state.model, threads=reference.threads))
        return lambda network: mean_square(some.run(network), expected)

    def build(self, removed: set[int], *, refit: bool = True) -> onnx.ModelProto:
        """The network without the units `removed`, and with refitted weights behind them."""
        return cut(self.state, removed, self.inputs.refitted(removed) if refit else None)

    def choose(self, share: float, multiple: int) -> set[int]:
        """The units to remove to save at least `share` of the multiply-adds.

        Groups of at least four times `multiple` channels lose that many at a time. Raises AigcEdgeError when the share is out of
        reach.
        """
        waiting = {index: _parts(group, multiple) for index, group in enumerate(self.groups)}
        gone = dict.fromkeys(waiting, 0)
        removed: set[int] = set()

        def worth(index: int) -> float:
            """The error of removing the group's next part, per multiply-add saved."""
            group, part = self.groups[index], waiting[index][0]
            saved = self.costs.macs(removed) - self.costs.macs(removed | {unit.root for unit in part})
            count = len(group.units)
            error = group.error((gone[index] + len(part)) / count) - group.error(gone[index] / count)
            return error / max(saved, 1e-9) if math.isfinite(error) else math.inf

        while self.costs.macs(removed) > (1 - share) * self.total and any(waiting.values()):
            index = min((index for index, parts in waiting.items() if parts), key=worth)
            part = waiting[index].pop(0)
            gone[index] += len(part)
            removed |= {unit.root for unit in part}
        reached = 1 - self.costs.macs(removed) / self.total
        if reached < share:
            raise BudgetError(
                f"share={share:g} of the multiply-adds cannot be pruned: inner channels hold {reached:.2f}; use a smaller one"
            )
        return removed

    def predicted_errors(self, removed: set[int]) -> dict[str, float]:
        """By group: the relative squared error that losing its units among `removed` causes alone."""
        return {
            group.name: group.error(sum(unit.root in removed for unit in group.units) / len(group.units)) for group in self.groups
        }


def _parts(group: ChannelGroup, multiple: int) -> list[Sequence[ChannelUnit]]:
    """The removable parts of a group, in order: units that together hold `multiple` channels; the last units always stay."""
    least = max(multiple if group.channels >= 4 * multiple else 1, math.ceil(group.channels * KEEP))
    step = multiple if group.channels >= 4 * multiple else 1
    parts: list[Sequence[ChannelUnit]] = []
    part: list[ChannelUnit] = []
    left = group.channels
    for unit in group.units:
        part.append(unit)
        size = sum(other.channels for other in part)
        if left - size < least:
            break
        if size >= step:
            parts.append(part)
            left -= size
            part = []
    return parts
