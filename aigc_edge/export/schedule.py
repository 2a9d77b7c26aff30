"""Schedule constants: what depends on the timestep alone leaves the network, to be evaluated before sampling starts.

A row of a sampling program fixes the timestep, so every value that follows from it alone is the same for every sample of every
batch. `split_schedule` takes the operators behind such values out of the network and gives it inputs in their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from aigc_edge.export.cut import INFINITE, Cut
from aigc_edge.spec import BATCH

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


@dataclass(frozen=True)
class _Place:
    """A value by position, the same in a model and its clones: output `output` of node `node`, or the graph's input when -1."""

    node: int
    output: int


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
    asked = {use.node for value in (time, *(v for node in timely for v in node.outputs)) for use in value.uses()}
    _name_shapes(graph, [node for node in graph if node in asked], next(v for v in graph.inputs if v is not time))
    removed, places = _border(denoiser, time)
    if not removed:
        return model, None, _report(model, model, 0, [])
    names = _free_names(denoiser, len(places))
    schedule = _schedule(denoiser.clone(), index, places, names)
    _feed(denoiser, time, places, names)
    return denoiser, schedule, _report(model, denoiser, len(removed), list(schedule.graph.outputs))


def _name_shapes(graph: ir.Graph, nodes: Iterable[ir.Node], source: ir.Value) -> None:
    """Let the shapes that `nodes` (Shape) ask for follow from the batch of `source`, not from the value that has the shape."""
    for node in nodes:
        value = node.inputs[0]
        if node.op_type != "Shape" or value is None or value is source or value.shape is None or not _batched(value.shape):
            continue
        sizes = list(value.shape)[slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(value.shape)))]
        name = str(node.outputs[0].name)
        parts = [
            _initializer(graph, f"{name}_{i}", np.array([size], np.int64))
            if isinstance(size, int)
            else _batch(graph, source, node)
            for i, size in enumerate(sizes)
        ]
        if parts:
            known = _insert(graph, node, "Concat", parts, {"axis": 0}, f"{name}_known")
            ir.convenience.replace_all_uses_with(node.outputs[0], known)
            graph.remove(node, safe=True)


def _batched(shape: ir.Shape | None) -> bool:
    """[N, ...] with numbers behind the batch."""
    return shape is not None and len(shape) > 0 and str(shape[0]) == BATCH and all(isinstance(size, int) for size in shape[1:])


def _asks_batch(node: ir.Node) -> bool:
    return node.op_type == "Shape" and node.inputs[0] is not None and _batched(node.inputs[0].shape)


def _constant(shape: ir.Shape | None) -> bool:
    """Without the batch: numbers only."""
    return shape is not None and all(isinstance(size, int) for size in shape)


def _elements(shape: ir.Shape | None) -> int:
    """How many elements one sample has; a large guess when that is not known."""
    if shape is None:
        return OPERATOR
    return math.prod(size if isinstance(size, int) else 1 for size in shape)


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
        elif _asks_batch(node):
            found[node] = Depends.BATCH
        else:
            found[node] = max((of(value) for value in node.inputs), default=Depends.NOTHING)
    return found


def _border(model: ir.Model, timestep: ir.Value) -> tuple[list[ir.Node], list[_Place]]:
    """The nodes to remove and the values to feed in their place, by a minimum cut: removed nodes on the source's side."""
    nodes = list(model.graph)
    depends = _dependence(model, timestep)
    timely = [node for node in nodes if depends[node] == Depends.TIME]
    cut = Cut("removed", "kept")
    values: dict[ir.Value, tuple[Any, _Place]] = {timestep: ("removed", _Place(-1, 0))}
    for index, node in enumerate(nodes):
        if depends[node] != Depends.TIME:
            continue
        weights = sum(
            v.const_value.size for v in node.inputs if v is not None and v.is_initializer() and v.const_value is not None
        )
        cut.edge("removed", node, OPERATOR + weights + sum(_elements(v.shape) for v in node.outputs))
        for output, value in enumerate(node.outputs):
            values[value] = (node, _Place(index, output))
            if value.is_graph_output():  # must keep its producer
                cut.edge(node, "kept")
    for value, (producer, _) in values.items():
        feedable = value.dtype == ir.DataType.FLOAT and (_batched(value.shape) or _constant(value.shape))
        cut.edge(producer, value, INPUT + FED * _elements(value.shape) if feedable else INFINITE)
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


def _free_names(model: ir.Model, count: int) -> list[str]:
    taken = {v.name for v in _values(model)}
    prefix = "constant"
    while any(f"{prefix}_{i}" in taken for i in range(count)):
        prefix = f"schedule_{prefix}"
    return [f"{prefix}_{i}" for i in range(count)]


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def _at(model: ir.Model, places: list[_Place]) -> list[ir.Value]:
    nodes = list(model.graph)
    return [nodes[place.node].outputs[place.output] for place in places]


def _initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def _insert(
    graph: ir.Graph, before: ir.Node | None, kind: str, inputs: list[ir.Value], attributes: dict[str, Any], name: str
) -> ir.Value:
    node = ir.node(kind, inputs, attributes, name=name)
    node.outputs[0].name = name
    if before is None:
        graph.append(node)
    else:
        graph.insert_before(before, node)
    return node.outputs[0]


def _batch(graph: ir.Graph, source: ir.Value, before: ir.Node | None) -> ir.Value:
    return _insert(graph, before, "Shape", [source], {"start": 0, "end": 1}, f"{source.name}_batch_{len(graph)}")


def _schedule(model: ir.Model, timestep: int, places: list[_Place], names: list[str]) -> ir.Model:
    """`model` made to what the values at `places` need, with the timestep as its only input."""
    graph, time = model.graph, model.graph.inputs[timestep]
    values = _at(model, places)
    _name_shapes(graph, list(graph), time)
    graph.outputs.clear()
    for name, value in zip(names, values, strict=True):
        shape = value.shape
        assert shape is not None
        if _batched(shape):
            out = _insert(graph, None, "Identity", [value], {}, name)
            sizes = list(shape[1:])
        else:  # the same for every sample: one for each
            sizes = list(shape[1:]) if len(shape) and shape[0] == 1 else list(shape)
            tail = _initializer(graph, f"{name}_sizes", np.array(sizes, np.int64))
            wanted = _insert(graph, None, "Concat", [_batch(graph, time, None), tail], {"axis": 0}, f"{name}_shape")
            out = _insert(graph, None, "Expand", [value, wanted], {}, name)
        out.dtype, out.shape = ir.DataType.FLOAT, ir.Shape([BATCH, *sizes])
        graph.outputs.append(out)
    common.RemoveUnusedNodesPass()(model)
    for value in [v for v in graph.inputs if v is not time]:
        graph.inputs.remove(value)
    graph.name = "schedule"
    model.metadata_props["component"] = "schedule"
    return model


def _feed(model: ir.Model, time: ir.Value, places: list[_Place], names: list[str]) -> None:
    """Replace the values at `places` by inputs, and drop what nothing needs any more."""
    graph = model.graph
    for name, old in zip(names, _at(model, places), strict=True):
        shape = old.shape
        assert shape is not None
        sizes = list(shape[1:]) if _batched(shape) or (len(shape) and shape[0] == 1) else list(shape)
        new = ir.Value(name=name, shape=ir.Shape([BATCH, *sizes]), type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs.append(new)
        if not _batched(shape):  # all samples have the same: the first one's
            before = next(iter(graph))
            bounds = [
                _initializer(graph, f"{name}_{w}", np.array([i], np.int64)) for w, i in (("from", 0), ("to", 1), ("axis", 0))
            ]
            first = _insert(graph, before, "Slice", [new, *bounds], {}, f"{name}_first")
            if not (len(shape) and shape[0] == 1):
                first = _insert(graph, before, "Squeeze", [first, bounds[2]], {}, f"{name}_value")
            first.shape, first.dtype = shape, ir.DataType.FLOAT
            new = first
        ir.convenience.replace_all_uses_with(old, new)
    common.RemoveUnusedNodesPass()(model)
    if not time.uses():
        graph.inputs.remove(time)


def _weights(model: ir.Model) -> dict[str, int]:
    found = model.graph.initializers.items()
    return {n: v.const_value.size for n, v in found if v.const_value is not None and v.const_value.dtype.is_floating_point()}


def _report(whole: ir.Model, denoiser: ir.Model, operators: int, constants: list[ir.Value]) -> SplitReport:
    before, after = _weights(whole), _weights(denoiser)
    gone = sum(size for name, size in before.items() if name not in after)
    floats = sum(_elements(value.shape) for value in constants)
    return SplitReport(operators, len(list(whole.graph)), gone, sum(before.values()), floats, len(constants))
