"""Edits of a graph that take the schedule out of it: values become inputs of the one part and outputs of the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from aigc_edge.bundle.spec import BATCH

UNKNOWN = 1 << 20  # elements of a value whose shape is not known: better not kept, if it can go


@dataclass(frozen=True)
class Place:
    """A value by position, the same in a model and its clones: output `output` of node `node`, or the graph's input when -1."""

    node: int
    output: int


def batched(shape: ir.Shape | None) -> bool:
    """[N, ...] with numbers behind the batch."""
    return shape is not None and len(shape) > 0 and str(shape[0]) == BATCH and all(isinstance(size, int) for size in shape[1:])


def asked(node: ir.Node) -> list[int | str] | None:
    """The dimensions that a Shape node gives, where they are the batch and numbers; None: another node, or not known."""
    value = node.inputs[0] if node.op_type == "Shape" else None
    if value is None or value.shape is None or len(value.shape) == 0 or str(value.shape[0]) != BATCH:
        return None
    chosen = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(value.shape)))
    sizes = [size if isinstance(size, int) else str(size) for size in value.shape][chosen]
    return sizes if all(isinstance(size, int) or size == BATCH for size in sizes) else None


def elements(shape: ir.Shape | None) -> int:
    """How many elements one sample has; a large guess when that is not known."""
    if shape is None:
        return UNKNOWN
    return math.prod(size if isinstance(size, int) else 1 for size in shape)


def name_shapes(graph: ir.Graph, nodes: Iterable[ir.Node], source: ir.Value) -> None:
    """Let the shapes that `nodes` (Shape) ask for follow from the batch of `source`, not from the value that has the shape."""
    for node in nodes:
        sizes = asked(node)
        if sizes is None or node.inputs[0] is source:
            continue
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


def free_names(model: ir.Model, count: int) -> list[str]:
    """`count` names for constants that no value of the model has."""
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


def _at(model: ir.Model, places: list[Place]) -> list[ir.Value]:
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


def keep_schedule(model: ir.Model, timestep: int, places: list[Place], names: list[str]) -> ir.Model:
    """`model` made to what the values at `places` need, with the timestep as its only input."""
    graph, time = model.graph, model.graph.inputs[timestep]
    values = _at(model, places)
    name_shapes(graph, list(graph), time)
    graph.outputs.clear()
    for name, value in zip(names, values, strict=True):
        shape = value.shape
        assert shape is not None
        if batched(shape):
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


def feed(model: ir.Model, time: ir.Value, places: list[Place], names: list[str]) -> None:
    """Replace the values at `places` by inputs, and drop what nothing needs any more."""
    graph = model.graph
    for name, old in zip(names, _at(model, places), strict=True):
        shape = old.shape
        assert shape is not None
        sizes = list(shape[1:]) if batched(shape) or (len(shape) and shape[0] == 1) else list(shape)
        new = ir.Value(name=name, shape=ir.Shape([BATCH, *sizes]), type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs.append(new)
        if not batched(shape):  # all samples have the same: the first one's
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
