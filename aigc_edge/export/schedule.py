"""Schedule constants: subgraphs that depend only on the timestep are moved out of the network and evaluated before sampling.

Each row of a sampling program has a fixed timestep, so every value that depends only on it is the same for all samples.
`split_schedule` removes the operators that compute such values from the network and replaces them by inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import onnx_ir as ir

from aigc_edge.export.cut import INFINITE, source_side
from aigc_edge.export.fold import RANDOM, STANDARD
from aigc_edge.export.splice import (
    batch_shape,
    batched,
    elements,
    free_names,
    name_shapes,
    reduce_to_schedule,
    replace_by_inputs,
)

# Costs of one evaluation in units of one float32 access. An operator costs some thousand units even if it only renames its input,
# a network input less (more on a GPU, where each is a copy to the device). A weight is read once and a result written once; a fed
# value is stored in the table for every timestep and copied for every sample.
OPERATOR, INPUT, FED = 4000, 1000, 4


class Depends(IntEnum):
    """What a value depends on; with several inputs the largest applies."""

    NOTHING = 0
    BATCH = 1  # the number of samples
    TIME = 2
    SAMPLE = 3  # anything else: the sample, the class, random operators


@dataclass(frozen=True)
class SplitReport:
    """What was removed from the network: operators and float weights, with totals; and its constants (floats per row, inputs)."""

    operators: int
    of_operators: int
    weights: int
    of_weights: int
    constants: int
    inputs: int

    def __str__(self) -> str:
        share = 100 * self.weights / max(self.of_weights, 1)
        return f"{self.operators} operators, {share:.1f} % of weights removed"


def split_schedule(model: ir.Model, timestep: str = "timestep") -> tuple[ir.Model, ir.Model | None, SplitReport]:
    """Split `model` (batch "N" = first dimension of every input) into the network without its schedule, and the schedule.

    The schedule takes `timestep` float32 [N] and returns the constants, float32 [N, ...], further inputs of the network with the
    same names, one per value on the border. The border minimises the total cost: a fed float costs its copy, a kept operator its
    call, results and weights; the network keeps `timestep` if that is the cheapest input. All samples of a batch
    share a timestep. If nothing can be removed, the model is returned unchanged, with None as schedule.
    """
    index = next((i for i, value in enumerate(model.graph.inputs) if value.name == timestep), None)
    if index is None or len(model.graph.inputs) < 2:
        return model, None, _report(model, model, 0, [])
    denoiser = model.clone()
    graph, time = denoiser.graph, denoiser.graph.inputs[index]
    time_nodes = [node for node, depends in _dependence(denoiser, time).items() if depends is Depends.TIME]
    users = {use.node for value in (time, *(v for node in time_nodes for v in node.outputs)) for use in value.uses()}
    name_shapes(graph, [node for node in graph if node in users], next(v for v in graph.inputs if v is not time))
    removed, fed = _border(denoiser, time)
    if not removed:
        return model, None, _report(model, model, 0, [])
    constants = dict(zip(fed, free_names(denoiser, len(fed)), strict=True))
    schedule = reduce_to_schedule(denoiser.clone(), index, constants)
    replace_by_inputs(denoiser, time, constants)
    return denoiser, schedule, _report(model, denoiser, len(removed), list(schedule.graph.outputs))


def _constant(shape: ir.Shape | None) -> bool:
    """Whether the shape has static dimensions only, without the batch."""
    return shape is not None and all(isinstance(size, int) for size in shape)


def _dependence(model: ir.Model, timestep: ir.Value) -> dict[ir.Node, Depends]:
    dependence: dict[ir.Node, Depends] = {}

    def of(value: ir.Value | None) -> Depends:
        if value is None or value.is_initializer():
            return Depends.NOTHING
        producer = value.producer()
        return dependence[producer] if producer is not None else Depends.TIME if value is timestep else Depends.SAMPLE

    for node in model.graph:
        graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if node.domain not in STANDARD or node.op_type in (*RANDOM, "Dropout") or graphs:
            dependence[node] = Depends.SAMPLE
        elif batch_shape(node) is not None:
            dependence[node] = Depends.BATCH
        else:
            dependence[node] = max((of(value) for value in node.inputs), default=Depends.NOTHING)
    return dependence


def _border(model: ir.Model, timestep: ir.Value) -> tuple[list[ir.Node], list[str]]:
    """The nodes to remove and the names of values to feed instead, by a minimum cut with the removed nodes on the source side."""
    depends = _dependence(model, timestep)
    time_nodes = [node for node in model.graph if depends[node] == Depends.TIME]
    edges: list[tuple[Any, Any, int]] = []
    producers: dict[ir.Value, Any] = {timestep: "removed"}
    for node in time_nodes:
        weights = sum(
            v.const_value.size for v in node.inputs if v is not None and v.is_initializer() and v.const_value is not None
        )
        edges.append(("removed", node, OPERATOR + weights + sum(elements(v.shape) for v in node.outputs)))
        for value in node.outputs:
            producers[value] = node
            if value.is_graph_output():  # must keep its producer
                edges.append((node, "kept", INFINITE))
    for value, producer in producers.items():
        feedable = value.dtype == ir.DataType.FLOAT and (batched(value.shape) or _constant(value.shape))
        edges.append((producer, value, INPUT + FED * elements(value.shape) if feedable else INFINITE))
        for user in {use.node for use in value.uses()}:
            if depends.get(user) == Depends.TIME:
                edges += [(value, user, INFINITE), (user, producer, INFINITE)]
            else:
                edges.append((value, "kept", INFINITE))
    removed_side = source_side(edges, "removed", "kept")
    removed = [node for node in time_nodes if node in removed_side]
    fed = [value for value, producer in producers.items() if producer in removed_side and value not in removed_side]
    return removed, [str(value.name) for value in fed if value is not timestep]


def _weights(model: ir.Model) -> dict[str, int]:
    initializers = model.graph.initializers.items()
    return {
        n: v.const_value.size for n, v in initializers if v.const_value is not None and v.const_value.dtype.is_floating_point()
    }


def _report(original: ir.Model, denoiser: ir.Model, operators: int, constants: list[ir.Value]) -> SplitReport:
    before, after = _weights(original), _weights(denoiser)
    removed_weights = sum(size for name, size in before.items() if name not in after)
    floats = sum(elements(value.shape) for value in constants)
    return SplitReport(operators, len(list(original.graph)), removed_weights, sum(before.values()), floats, len(constants))
