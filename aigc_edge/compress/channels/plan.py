"""Decides which channels go: those whose loss errs least for the multiply-adds that it saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from aigc_edge.compress import graph
from aigc_edge.compress.channels.cut import cut
from aigc_edge.compress.channels.refit import Inputs
from aigc_edge.compress.channels.tracing import trace
from aigc_edge.compress.channels.units import Costs, Group, Unit, groups_of
from aigc_edge.compress.proof import Proof
from aigc_edge.errors import AigcEdgeError

KEEP = 1 / 8  # of a group's channels stay in any case
TRIED = 1 / 2  # of a group's units go when it is measured alone
TRIALS = 64  # groups that are measured, those with most multiply-adds; of the others the median is assumed


class Plan:
    """The groups of a network's channels, each with what its units carry along the trajectory and the error that it causes."""

    def __init__(self, model: onnx.ModelProto, proof: Proof, tell: Callable[[int, int], None]) -> None:
        self.state = trace(model)
        self.costs = Costs(self.state)
        self.groups = groups_of(self.state, self.costs)
        if not self.groups:
            raise AigcEdgeError(
                "the network has no inner channels that could be pruned (all are needed by sums or outputs): take another format"
            )
        self.inputs = Inputs(self.state, proof.seen, proof.threads)
        self.inputs.weigh(self.groups, self.costs)
        for group in self.groups:
            group.units.sort(key=lambda unit: unit.energy)
        self.total = self.costs.macs()
        by_cost = sorted(self.groups, key=lambda group: self.costs.macs({unit.root for unit in group.units}))
        for done, group in enumerate(by_cost[:TRIALS]):
            chosen = group.units[: max(1, int(len(group.units) * TRIED))]
            error = proof.quick(graph.Network(self.build({unit.root for unit in chosen}), threads=proof.threads))
            group.error = error * group.energy / max(sum(unit.energy for unit in chosen), 1e-3 * group.energy)
            tell(done + 1, min(TRIALS, len(by_cost)))
        for group in by_cost[TRIALS:]:
            group.error = float(np.median([other.error for other in by_cost[:TRIALS]]))

    def build(self, removed: set[int], *, refit: bool = True) -> onnx.ModelProto:
        """The network without the units `removed`, the weights behind them re-fitted."""
        return cut(self.state, removed, self.inputs.refitted(removed) if refit else None)

    def choose(self, share: float, multiple: int) -> set[int]:
        """The units to remove so that at least `share` of the multiply-adds go.

        Groups of at least four times `multiple` channels lose that many at a time. Raises AigcEdgeError when so many cannot go.
        """
        parts: list[tuple[float, set[int]]] = []
        for group in self.groups:
            for part in _parts(group, multiple):
                roots = {unit.root for unit in part}
                saved = self.total - self.costs.macs(roots)
                error = group.error * sum(unit.energy for unit in part) / group.energy
                parts.append((error / max(saved, 1e-9) if math.isfinite(error) else math.inf, roots))
        removed: set[int] = set()
        for _, roots in sorted(parts, key=lambda part: part[0]):
            if self.costs.macs(removed) <= (1 - share) * self.total:
                break
            removed |= roots
        reached = 1 - self.costs.macs(removed) / self.total
        if reached < share:
            raise AigcEdgeError(
                f"share={share:g} of the multiply-adds cannot be pruned: inner channels hold {reached:.2f} of them; ask for less"
            )
        return removed

    def blame(self, removed: set[int], count: int = 3) -> str:
        """The groups whose loss is predicted to err most, as part of a sentence."""
        errors = {
            group.name: group.error * sum(unit.energy for unit in group.units if unit.root in removed) / group.energy
            for group in self.groups
        }
        total = sum(errors.values()) or 1.0
        worst = sorted(errors, key=lambda name: -errors[name])[:count]
        return ", ".join(f"{name} ({100 * errors[name] / total:.0f} % of the error)" for name in worst if errors[name] > 0)


def _parts(group: Group, multiple: int) -> list[Sequence[Unit]]:
    """What may go of a group, in order: units together until they hold `multiple` channels; the last of them always stay."""
    least = max(multiple if group.channels >= 4 * multiple else 1, math.ceil(group.channels * KEEP))
    step = multiple if group.channels >= 4 * multiple else 1
    parts: list[Sequence[Unit]] = []
    part: list[Unit] = []
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
