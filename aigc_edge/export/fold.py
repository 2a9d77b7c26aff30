"""Constant folding at import: what a graph computes from constants alone becomes a constant.

Formats quantise weights that are initialisers. Other exporters write them as Constant nodes, behind Identity, Transpose, Reshape,
Cast or DequantizeLinear; parametrised modules (weight_norm, spectral_norm, equalised learning rates, weight standardisation,
adapters) compute them from other tensors at every call.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes import common

from aigc_edge.export.refused import QUANTISED, RANDOM, quantised_error, random_error
from aigc_edge.export.session import session_of

SMALL = 1 << 16  # elements: what is computed from fewer, such as masks and tables of angles, may become as large
LARGEST = 1 << 31  # elements of any value while a constant is computed
STANDARD = ("", "ai.onnx")
Roots = list[ir.Value]  # the constants that a value is computed from, the largest first
# Names of the tensors that torch's parametrisations and quantisers store in place of "weight".
_STORED = re.compile(r"\.parametrizations(?=\.\w+\.original)|\.original\d*$|(?<=weight)(_v|_orig|_quantized)$")


def fold_constants(model: ir.Model, what: str) -> None:
    """Replace all values of `model` that depend on constants alone by initialisers, in place; rounding may differ.

    Results of more than SMALL elements are together at most as large as the constants they come from; others are left to be
    computed, so feature maps and tables stay out of the file. Bodies of If, Loop and Scan have no initialisers of their own
    afterwards. Raises AigcEdgeError, beginning with `what`, when the graph draws random numbers or is quantised already.
    """
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    _refuse_random(model, what)
    _move_out_of_bodies(model)
    roots = _computed_from(model.graph)
    producers = {value.producer() for value in roots}
    left = {root: _size(root) for values in roots.values() for root in values}
    kept: set[ir.Node] = set()
    constants: list[tuple[ir.Value, str]] = []
    for node in reversed(list(model.graph)):
        if node not in producers:
            continue
        read = [v for v in node.outputs if any(use.node not in producers or use.node in kept for use in v.uses())]
        results = {value: _evaluated(model, value, roots[value], left) for value in read}
        if None in results.values() or any(value.is_graph_output() for value in node.outputs):
            kept.add(node)
            continue
        for value, tensor in results.items():
            assert tensor is not None
            constant = ir.Value(
                name=value.name, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
            )
            ir.convenience.replace_all_uses_with(value, constant)
            constants.append((constant, _STORED.sub("", str(roots[value][0].name))))
    common.RemoveUnusedNodesPass()(model)
    taken = {value.name for value in [*model.graph.inputs, *model.graph.initializers.values()]}
    taken |= {value.name for node in ir.traversal.RecursiveGraphIterator(model.graph) for value in node.outputs}
    for constant, name in reversed(constants):
        stem, dot, last = name.rpartition(".")
        names = itertools.chain([name], (f"{stem}{dot}{number}{dot or '_'}{last}" for number in itertools.count(1)))
        constant.name = next(name for name in names if name not in taken)
        taken.add(constant.name)
        model.graph.register_initializer(constant)
    quantised = {node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph)} & QUANTISED
    if quantised:
        raise quantised_error(what, quantised)


def _refuse_random(model: ir.Model, what: str) -> None:
    """Raise for operators that draw random numbers; remove Dropout that does nothing."""
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        dropout = node.op_type == "Dropout"
        training = node.inputs[2] if dropout and len(node.inputs) > 2 else None
        active = training is not None and (training.const_value is None or training.const_value.numpy().any())
        if node.op_type in RANDOM or active:
            raise random_error(what, node.op_type)
        result, source = node.outputs[0], node.inputs[0] if node.inputs else None
        if dropout and source is not None and not result.is_graph_output() and not any(v.uses() for v in node.outputs[1:]):
            ir.convenience.replace_all_uses_with(result, source)


def _move_out_of_bodies(model: ir.Model) -> None:
    """Move nodes of bodies that read constants alone to the front of the whole graph."""
    first = next(iter(model.graph), None)
    moved: set[ir.Node] = set()
    for node in [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.graph is not model.graph]:
        inputs = [value for value in node.inputs if value is not None]
        outside = inputs and all(_constant(value) or value.producer() in moved for value in inputs)
        if (
            first is None
            or node.graph is None
            or not outside
            or not _foldable(node)
            or any(v.is_graph_output() for v in node.outputs)
        ):
            continue
        node.graph.remove(node)
        model.graph.insert_before(first, node)
        moved.add(node)
    if moved:
        common.NameFixPass()(model)


def _constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _foldable(node: ir.Node) -> bool:
    bodies = any(item.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for item in node.attributes.values())
    return node.domain in STANDARD and not bodies


def _computed_from(graph: ir.Graph) -> dict[ir.Value, Roots]:
    """The values that nodes of `graph` compute from constants alone, with these constants."""
    roots: dict[ir.Value, Roots] = {}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if inputs and _foldable(node) and all(value in roots or _constant(value) for value in inputs):
            sources = {root for value in inputs for root in roots.get(value, [value])}
            roots |= dict.fromkeys(node.outputs, sorted(sources, key=lambda root: (-_size(root), str(root.name))))
    return roots


def _evaluated(model: ir.Model, value: ir.Value, roots: Roots, left: dict[ir.Value, int]) -> ir.TensorProtocol | None:
    """The constant `value`, counted off the elements that are `left` of its roots; None if it is too large, or fails."""
    nodes: list[ir.Node] = []
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in nodes:
            nodes.append(node)
            waiting += [v for v in node.inputs if v is not None]
    order = {node: index for index, node in enumerate(model.graph)}
    fed = {str(root.name): _array(root) for root in roots if _size(root) > SMALL and root.dtype == ir.DataType.FLOAT}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape) for name, array in fed.items()]
    graph = helper.make_graph(
        [ir.to_proto(node) for node in sorted(nodes, key=order.__getitem__)],
        "constant",
        inputs,
        [onnx.ValueInfoProto(name=value.name)],
        [_tensor(root) for root in roots if root.name not in fed],
    )
    opset = helper.make_opsetid("", model.opset_imports[""])
    proto = helper.make_model(graph, ir_version=model.ir_version, opset_imports=[opset])
    allowed = max(SMALL, sum(left[root] for root in roots))
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        shapes = {
            v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.output)
        }
        if any(math.prod(shape) > LARGEST for shape in shapes.values()) or math.prod(shapes.get(str(value.name), ())) > allowed:
            return None
        (result,) = session_of(proto.SerializeToString()).run(None, fed)
    except Exception:  # an operator that the engine lacks: it stays in the graph, where engines may have it
        return None
    if not isinstance(result, np.ndarray) or result.size > allowed:
        return None
    rest = result.size if result.size > SMALL else 0
    for root in roots:
        used = min(rest, left[root])
        left[root], rest = left[root] - used, rest - used
    return ir.tensor(result)


def _size(root: ir.Value) -> int:
    return root.const_value.size if root.const_value is not None else 0


def _array(root: ir.Value) -> npt.NDArray[Any]:
    assert root.const_value is not None
    return root.const_value.numpy()


def _tensor(root: ir.Value) -> onnx.TensorProto:
    """The constant in a message of its own: its bytes may be in a file."""
    assert root.const_value is not None
    tensor = onnx.TensorProto(name=root.name, data_type=root.const_value.dtype.value, dims=list(root.const_value.shape.numpy()))
    tensor.raw_data = root.const_value.tobytes()
    return tensor
