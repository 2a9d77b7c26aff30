"""Schedule constants: what depends on the timestep alone leaves the network, to be evaluated before sampling starts.

A row of a sampling program fixes the timestep, so every value that follows from it alone is the same for every sample of every
batch. `split_schedule` takes the operators behind such values out of the network and gives it inputs in their place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import onnx_ir as ir

from aigc_edge.export.cut import INFINITE, Cut
from aigc_edge.export.splice import Place, asked, batched, elements, feed, free_names, keep_schedule, name_shapes

# What one evaluation pays, in times that a float32 takes to be read or written: an operator costs that of some thousand even when
# it only renames its input, an input of the network less (on a GPU more: each is a copy to the device). A weight is read once, a
# result written once; what is fed stands in the table for every timestep, and is copied for every sample.
OPERATOR, INPUT, FED = 4000, 1000, 4
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout")
STANDARD = ("", "ai.onnx")


class Depends(IntEnum):
    """What a value follows from: of several inputs the largest counts."""

    NOTHING = 0
    BATCH = 1  # how many samples there are
    TIME = 2
    SAMPLE = 3  # anything else: the sample, the class, chance


@dataclass(frozen=True)
class SplitReport:
    """What left the network: operators and float weights, of how many; the constants that it takes instead (floats a row)."""

    operators: int
    of_operators: int
    weights: int
    of_weights: int
    constants: int
    inputs: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        share = 100 * self.weights / max(self.of_weights, 1)
        return f"{self.operators} operators, {share:.1f} % of weights removed"


def split_schedule(model: ir.Model, timestep: str = "timestep") -> tuple[ir.Model, ir.Model | None, SplitReport]:
    """Split `model` (batch "N" = first dimension of every input) into the network without its schedule, and the schedule.

    The schedule takes `timestep` float32 [N] and gives the constants, float32 [N, ...], that the network takes as further inputs
    of the same names, one for each value on the border. The border is where the whole costs least: feeding a float costs its
    copy, keeping an operator its call, its results and its weights; the network keeps `timestep` when that is cheapest to feed.
    All samples of a batch share a timestep. Without anything to remove the model comes back as it was, and None as the schedule.
    """
    index = next((i for i, value in enumerate(model.graph.inputs) if value.name == timestep), None)
    if index is None or len(model.graph.inputs) < 2:
        return model, None, _report(model, model, 0, [])
    denoiser = model.clone()
    graph, time = denoiser.graph, denoiser.graph.inputs[index]
    timely = [node for node, depends in _dependence(denoiser, time).items() if depends is Depends.TIME]
    users = {use.node for value in (time, *(v for node in timely for v in node.outputs)) for use in value.uses()}
    name_shapes(graph, [node for node in graph if node in users], next(v for v in graph.inputs if v is not time))
    removed, places = _border(denoiser, time)
    if not removed:
        return model, None, _report(model, model, 0, [])
    names = free_names(denoiser, len(places))
    schedule = keep_schedule(denoiser.clone(), index, places, names)
    feed(denoiser, time, places, names)
    return denoiser, schedule, _report(model, denoiser, len(removed), list(schedule.graph.outputs))


def _constant(shape: ir.Shape | None) -> bool:
    """Without the batch: numbers only."""
    return shape is not None and all(isinstance(size, int) for size in shape)


def _dependence(model: ir.Model, timestep: ir.Value) -> dict[ir.Node, Depends]:
    found: dict[ir.Node, Depends] = {}

    def of(value: ir.Value | None) -> Depends:
        if value is None or value.is_initializer():
            return Depends.NOTHING
        producer = value.producer()
        return found[producer] if producer is not None else Depends.TIME if value is timestep else Depends.SAMPLE

    for node in model.graph:
        graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if node.domain not in STANDARD or node.op_type in RANDOM or graphs:
            found[node] = Depends.SAMPLE
        elif asked(node) is not None:
            found[node] = Depends.BATCH
        else:
            found[node] = max((of(value) for value in node.inputs), default=Depends.NOTHING)
    return found


def _border(model: ir.Model, timestep: ir.Value) -> tuple[list[ir.Node], list[Place]]:
    """The nodes to remove and the values to feed in their place, by a minimum cut: removed nodes on the source's side."""
    nodes = list(model.graph)
    depends = _dependence(model, timestep)
    timely = [node for node in nodes if depends[node] == Depends.TIME]
    cut = Cut("removed", "kept")
    values: dict[ir.Value, tuple[Any, Place]] = {timestep: ("removed", Place(-1, 0))}
    for index, node in enumerate(nodes):
        if depends[node] != Depends.TIME:
            continue
        weights = sum(
            v.const_value.size for v in node.inputs if v is not None and v.is_initializer() and v.const_value is not None
        )
        cut.edge("removed", node, OPERATOR + weights + sum(elements(v.shape) for v in node.outputs))
        for output, value in enumerate(node.outputs):
            values[value] = (node, Place(index, output))
            if value.is_graph_output():  # must keep its producer
                cut.edge(node, "kept")
    for value, (producer, _) in values.items():
        feedable = value.dtype == ir.DataType.FLOAT and (batched(value.shape) or _constant(value.shape))
        cut.edge(producer, value, INPUT + FED * elements(value.shape) if feedable else INFINITE)
        for user in {use.node for use in value.uses()}:
            if depends.get(user) == Depends.TIME:
                cut.edge(value, user)
                cut.edge(user, producer)
            else:
                cut.edge(value, "kept")
    side = cut.source_side()
    removed = [node for node in timely if node in side]
    fed = [value for value in values if (value is timestep or values[value][0] in side) and value not in side]
    return removed, [values[value][1] for value in fed if value is not timestep]


def _weights(model: ir.Model) -> dict[str, int]:
    found = model.graph.initializers.items()
    return {n: v.const_value.size for n, v in found if v.const_value is not None and v.const_value.dtype.is_floating_point()}


def _report(whole: ir.Model, denoiser: ir.Model, operators: int, constants: list[ir.Value]) -> SplitReport:
    before, after = _weights(whole), _weights(denoiser)
    gone = sum(size for name, size in before.items() if name not in after)
    floats = sum(elements(value.shape) for value in constants)
    return SplitReport(operators, len(list(whole.graph)), gone, sum(before.values()), floats, len(constants))
