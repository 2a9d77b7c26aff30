"""The smallest sets of channels that can be removed, grouped by the layers that produce them, and the cost without some."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from aigc_edge.compress.channels.labels import Ints
from aigc_edge.compress.channels.tracing import ChannelTrace
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.weights import weights_of


@dataclass
class ChannelUnit:
    """Channels that are removed together: the root of their labels, their number in the group's main layer, their energy."""

    root: int
    channels: int
    energy: float = 0.0


@dataclass
class ChannelGroup:
    """Units whose channels the same layers produce; `name` is that of the layer with the most multiply-adds."""

    name: str
    units: list[ChannelUnit] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)  # share of units removed, error of the output

    @property
    def channels(self) -> int:
        return sum(unit.channels for unit in self.units)

    def error(self, part: float) -> float:
        """Relative squared error of the output without the first `part` of the units; extrapolated by a parabola."""
        known = [(0.0, 0.0), *self.curve]
        last, most = known[-1]
        if part > last > 0 or len(known) == 2:
            return most * (part / last) ** 2
        return float(np.interp(part, [share for share, _ in known], [error for _, error in known]))


class Costs:
    """Multiply-adds of a traced network without some channels."""

    def __init__(self, state: ChannelTrace) -> None:
        indices = {node.output[0]: index for index, node in enumerate(state.model.graph.node) if node.output}
        self.layers: dict[int, Layer] = {indices[layer.node]: layer for layer in weights_of(state.model)}
        labels = state.labels
        self.produced: dict[int, Ints] = {index: labels.roots(of) for index, of in labels.producers.items()}
        self.read: dict[int, Ints] = {index: labels.roots(of) for index, of in labels.consumers.items()}
        self.through: dict[int, Ints] = {index: labels.roots(of) for index, of in labels.through.items()}

    def macs(self, removed: Collection[int] = ()) -> float:
        """Multiply-adds for one sample."""
        gone = np.array(sorted(removed), np.int64)
        total = 0.0
        for index, layer in self.layers.items():
            part = float(layer.macs)
            for roots in (self.produced.get(index), self.read.get(index), self.through.get(index)):
                if roots is not None and len(gone):
                    part *= 1 - float(np.isin(roots, gone).mean())
            total += part
        return total


def groups_of(state: ChannelTrace, costs: Costs) -> list[ChannelGroup]:
    """All groups of at least two units that layers produce and layers read, in order of execution."""
    frozen = state.labels.frozen()
    makers: dict[int, list[int]] = {}
    for index, roots in costs.produced.items():
        for root in set(roots.tolist()):
            makers.setdefault(root, []).append(index)
    read = {root for roots in costs.read.values() for root in roots.tolist()}
    groups: dict[tuple[int, ...], ChannelGroup] = {}
    for root, indices in makers.items():
        if root in frozen or root not in read:
            continue
        main = max(indices, key=lambda index: costs.layers[index].macs if index in costs.layers else -1)
        if main not in costs.layers:
            continue
        group = groups.setdefault(tuple(sorted(indices)), ChannelGroup(costs.layers[main].name))
        group.units.append(ChannelUnit(root, int((costs.produced[main] == root).sum())))
    return [group for key, group in sorted(groups.items()) if len(group.units) > 1]


def measured(state: ChannelTrace) -> list[Layer]:
    """The layers that read traced channels."""
    consumers = {state.model.graph.node[index].output[0] for index in state.labels.consumers}
    return [layer for layer in weights_of(state.model) if layer.node in consumers]
