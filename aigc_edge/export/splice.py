"""Graph edits that separate the schedule: values become inputs of the network and outputs of the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from aigc_edge.bundle.spec import BATCH

UNKNOWN = 1 << 20  # assumed elements of a value of unknown shape, so that it is removed if possible


def batched(shape: ir.Shape | None) -> bool:
    """Whether the shape is [N, ...] with static dimensions after the batch."""
    return shape is not None and len(shape) > 0 and str(shape[0]) == BATCH and all(isinstance(size, int) for size in shape[1:])


def batch_shape(node: ir.Node) -> list[int | str] | None:
    """The result of a Shape node if it consists of the batch and static sizes; None for other nodes and unknown shapes."""
    value = node.inputs[0] if node.op_type == "Shape" else None
    if value is None or value.shape is None or len(value.shape) == 0 or str(value.shape[0]) != BATCH:
        return None
    chosen = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(value.shape)))
    sizes = [size if isinstance(size, int) else str(size) for size in value.shape][chosen]
    return sizes if all(isinstance(size, int) or size == BATCH for size in sizes) else None


def elements(shape: ir.Shape | None) -> int:
    """Number of elements per sample; a large estimate if unknown."""
    if shape is None:
        return UNKNOWN
    return math.prod(size if isinstance(size, int) else 1 for size in shape)


def initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """Add a constant to the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def insert(
    graph: ir.Graph, before: ir.Node | None, kind: str, inputs: list[ir.Value], attributes: dict[str, Any], name: str
) -> ir.Value:
    """Add a node before another (None: at the end) and return its output; both have the `name`."""
    node = ir.node(kind, inputs, attributes, name=name)
    node.outputs[0].name = name
    if before is None:
        graph.append(node)
    else:
        graph.insert_before(before, node)
    return node.outputs[0]


def name_shapes(graph: ir.Graph, nodes: Iterable[ir.Node], source: ir.Value) -> None:
    """Compute the shapes that Shape nodes among `nodes` read from the batch of `source` instead of from the value itself."""
    for node in nodes:
        sizes = batch_shape(node)
        if sizes is None or node.inputs[0] is source:
            continue
        name = str(node.outputs[0].name)
        parts = [
            initializer(graph, f"{name}_{i}", np.array([size], np.int64))
            if isinstance(size, int)
            else _batch(graph, source, node)
            for i, size in enumerate(sizes)
        ]
        if parts:
            known = insert(graph, node, "Concat", parts, {"axis": 0}, f"{name}_known")
            ir.convenience.replace_all_uses_with(node.outputs[0], known)
            graph.remove(node, safe=True)


def free_names(model: ir.Model, count: int) -> list[str]:
    """`count` unused names for constants."""
    taken, prefix = _values(model), "constant"
    while any(f"{prefix}_{i}" in taken for i in range(count)):
        prefix = f"schedule_{prefix}"
    return [f"{prefix}_{i}" for i in range(count)]


def _values(model: ir.Model) -> dict[str, ir.Value]:
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {str(value.name): value for value in values}


def _batch(graph: ir.Graph, source: ir.Value, before: ir.Node | None) -> ir.Value:
    return insert(graph, before, "Shape", [source], {"start": 0, "end": 1}, f"{source.name}_batch_{len(graph)}")


def reduce_to_schedule(model: ir.Model, timestep: int, constants: Mapping[str, str]) -> ir.Model:
    """Reduce `model` to the computation of values (the keys) as outputs (new names), with the timestep as its only input."""
    graph, time, values = model.graph, model.graph.inputs[timestep], _values(model)
    name_shapes(graph, list(graph), time)
    graph.outputs.clear()
    for old, name in constants.items():
        value = values[old]
        shape = value.shape
        assert shape is not None
        if batched(shape):
            out = insert(graph, None, "Identity", [value], {}, name)
            sizes = list(shape[1:])
        else:  # the same for every sample: expand to the batch
            sizes = list(shape[1:]) if len(shape) and shape[0] == 1 else list(shape)
            tail = initializer(graph, f"{name}_sizes", np.array(sizes, np.int64))
            target_shape = insert(graph, None, "Concat", [_batch(graph, time, None), tail], {"axis": 0}, f"{name}_shape")
            out = insert(graph, None, "Expand", [value, target_shape], {}, name)
        out.dtype, out.shape = ir.DataType.FLOAT, ir.Shape([BATCH, *sizes])
        graph.outputs.append(out)
    common.RemoveUnusedNodesPass()(model)
    for value in [v for v in graph.inputs if v is not time]:
        graph.inputs.remove(value)
    graph.name = "schedule"
    model.metadata_props["component"] = "schedule"
    return model


def replace_by_inputs(model: ir.Model, time: ir.Value, constants: Mapping[str, str]) -> None:
    """Replace values (the keys) by inputs (new names) and remove unused nodes and inputs."""
    graph, values = model.graph, _values(model)
    for old, name in constants.items():
        shape = values[old].shape
        assert shape is not None
        sizes = list(shape[1:]) if batched(shape) or (len(shape) and shape[0] == 1) else list(shape)
        new = ir.Value(name=name, shape=ir.Shape([BATCH, *sizes]), type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs.append(new)
        if not batched(shape):  # the same for all samples: take the first
            before = next(iter(graph))
            bounds = [
                initializer(graph, f"{name}_{w}", np.array([i], np.int64)) for w, i in (("from", 0), ("to", 1), ("axis", 0))
            ]
            first = insert(graph, before, "Slice", [new, *bounds], {}, f"{name}_first")
            if not (len(shape) and shape[0] == 1):
                first = insert(graph, before, "Squeeze", [first, bounds[2]], {}, f"{name}_value")
            first.shape, first.dtype = shape, ir.DataType.FLOAT
            new = first
        ir.convenience.replace_all_uses_with(values[old], new)
    common.RemoveUnusedNodesPass()(model)
    if not time.uses():
        graph.inputs.remove(time)
