"""Graph simplification: removes exporter artefacts that no engine needs, with standard ONNX operators only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from aigc_edge.bundle.sizes import Size, number
from aigc_edge.export.inference import infer
from aigc_edge.export.splice import initializer, insert

BATCHES = (2, 3)  # two batch sizes distinguish dimensions that follow the batch from constants
TIMES = (2, 5)  # growth factors of height and width between the two inferences
SMALL = 1024  # elements: tensors of shapes and axes are smaller; weights are not needed for shape inference


class InferredValue(NamedTuple):
    """Inferred element type of a value and its shapes at both batch sizes (and image sizes, if there are several)."""

    type: int
    first: list[int]
    second: list[int]


Shapes = dict[str, InferredValue]


def _shapes(model: ir.Model, size: Size | None) -> Shapes:
    """Concrete shape of every value at both batch sizes, by ONNX shape inference; values without a result are absent."""
    first = size or (1, 1)
    skeleton = ir.from_proto(ir.to_proto(_without_weights(model)))
    inferred: list[dict[str, list[int]]] = []
    types: dict[str, int] = {}
    for batch, image in zip(BATCHES, (first, (first[0] * TIMES[0], first[1] * TIMES[1])), strict=True):
        for value, declared in zip(skeleton.graph.inputs, model.graph.inputs, strict=False):  # weights follow the inputs
            assert declared.shape is not None
            value.shape = ir.Shape([batch, *(d if isinstance(d, int) else number(str(d), image) for d in declared.shape[1:])])
        for node in skeleton.graph:
            for value in node.outputs:
                value.shape = None
        proto = ir.to_proto(skeleton)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True) if size is None else infer(proto)
        values = [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]
        values = [value for value in values if value.type.tensor_type.HasField("shape")]
        types |= {v.name: v.type.tensor_type.elem_type for v in values}
        inferred.append({v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values})
    first_shapes, second_shapes = inferred
    return {
        name: InferredValue(types[name], first_shapes[name], second_shapes[name])
        for name in first_shapes
        if 0 not in first_shapes[name] and name in second_shapes
    }


def _without_weights(model: ir.Model) -> ir.Model:
    """A copy whose large initialisers are inputs: a protobuf message cannot exceed 2 GB, and inference needs no weights."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        if value.const_value is not None and value.const_value.size > SMALL:
            value.const_value = None
            del copy.graph.initializers[name]
            copy.graph.inputs.append(value)
    return copy


def _record_shapes(model: ir.Model, shapes: Shapes) -> None:
    for node in model.graph:
        for value in node.outputs:
            if value.name in shapes:
                kind, first, second = shapes[value.name]
                value.dtype = ir.DataType(kind)
                known = [a if a == b else "N" if (a, b) == BATCHES else None for a, b in zip(first, second, strict=True)]
                value.shape = ir.Shape(known)


def _array(value: ir.Value | None) -> np.ndarray | None:
    return value.const_value.numpy() if value is not None and value.const_value is not None and value.is_initializer() else None


def _fix_reshapes(model: ir.Model, shapes: Shapes) -> None:
    """Replace computed Reshape targets by constants where at most one dimension follows the batch.

    Where several do, dimensions that the input has at the same axis are copied from it (0).
    """
    for node in model.graph:
        name = node.outputs[0].name
        if node.op_type != "Reshape" or _array(node.inputs[1]) is not None or name not in shapes:
            continue
        _, first, second = shapes[name]
        target = [a if a == b else -1 for a, b in zip(first, second, strict=True)]
        source = shapes.get((node.inputs[0] and node.inputs[0].name) or "")
        if target.count(-1) > 1 and source is not None:
            for axis, sizes in enumerate(zip(source.first, source.second, first, second, strict=False)):
                if target[axis] == -1 and sizes[:2] == sizes[2:]:
                    target[axis] = 0
            node.attributes.pop("allowzero", None)
        if target.count(-1) <= 1:
            node.replace_input_with(1, initializer(model.graph, f"{name}_shape", np.array(target, np.int64)))


def _drop_neutral(model: ir.Model, shapes: Shapes) -> None:
    """Replace x · 1 and x + 0 (from normalisations without scale and shift) by x, unless they broadcast it."""
    neutral: dict[str, Callable[[np.ndarray], np.ndarray]] = {"Mul": lambda a: a == 1, "Add": lambda a: a == 0}
    for node in model.graph:
        out = node.outputs[0]
        if node.op_type not in neutral or out.is_graph_output():
            continue
        for operand, other in ((0, 1), (1, 0)):
            constant, value = _array(node.inputs[other]), node.inputs[operand]
            if constant is None or value is None or not neutral[node.op_type](constant).all():
                continue
            if out.name in shapes and shapes[out.name] == shapes.get(value.name or ""):
                ir.convenience.replace_all_uses_with(out, value)
                break


def _merge_transposes(model: ir.Model, shapes: Shapes) -> None:
    """Reshape [n, h, a, b] → [n·h, a, b], Transpose (0, 2, 1), Reshape → [n, h, b, a] becomes one Transpose (0, 1, 3, 2)."""
    for node in list(model.graph):
        if node.op_type != "Reshape" or (transpose := node.inputs[0].producer() if node.inputs[0] else None) is None:
            continue
        reshape = transpose.inputs[0].producer() if transpose.op_type == "Transpose" and transpose.inputs[0] else None
        if reshape is None or reshape.op_type != "Reshape" or list(transpose.attributes.get_ints("perm", [])) != [0, 2, 1]:
            continue
        source, flat, out = reshape.inputs[0], reshape.outputs[0], node.outputs[0]
        if source is None or any(v.name not in shapes for v in (source, flat, out)):
            continue
        sides = zip(*(shapes[v.name or ""][1:] for v in (source, flat, out)), strict=True)
        if all(len(s) == 4 and f == [s[0] * s[1], *s[2:]] and o == [s[0], s[1], s[3], s[2]] for s, f, o in sides):
            _transpose_instead(model.graph, node, source, [0, 1, 3, 2])


def _plain_einsums(model: ir.Model) -> None:
    """Replace Einsums that permute the dimensions of one input by Transpose, which every engine and quantiser supports."""
    for node in list(model.graph):
        if node.op_type != "Einsum" or len(node.inputs) != 1 or (value := node.inputs[0]) is None:
            continue
        subscripts, _, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
        if not result or "." in subscripts or len(set(subscripts)) != len(subscripts) or sorted(subscripts) != sorted(result):
            continue
        _transpose_instead(model.graph, node, value, [subscripts.index(letter) for letter in result])


def _transpose_instead(graph: ir.Graph, node: ir.Node, source: ir.Value, order: list[int]) -> None:
    """Replace `node`, unless its output is one of the graph, by the transposed `source`."""
    out = node.outputs[0]
    if not out.is_graph_output():
        transposed = insert(graph, node, "Transpose", [source], {"perm": order}, f"{out.name}_transposed")
        transposed.shape, transposed.type = out.shape, out.type
        ir.convenience.replace_all_uses_with(out, transposed)


def _copy_shapes(model: ir.Model, shapes: Shapes) -> None:
    """Replace computed Reshape targets by the shape of an earlier value with that shape, so that no size arithmetic remains."""
    like: dict[tuple[tuple[int, ...], tuple[int, ...]], ir.Value] = {}
    for node in list(model.graph):
        out = node.outputs[0]
        if node.op_type == "Reshape" and out.name in shapes and _array(node.inputs[1]) is None:
            target, same = node.inputs[1].producer() if node.inputs[1] else None, like.get(_key(shapes[out.name]))
            if same is not None and (target is None or target.op_type != "Shape"):
                shape = insert(model.graph, node, "Shape", [same], {"start": 0}, f"{out.name}_like")
                shape.type = ir.TensorType(ir.DataType.INT64)
                node.replace_input_with(1, shape)
        for value in node.outputs:
            if value.name in shapes and len(shapes[value.name].first) > 1:
                like[_key(shapes[value.name])] = value


def _key(known: InferredValue) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(known.first), tuple(known.second)


def clean(model: ir.Model, size: Size | None = None) -> None:
    """Simplify `model` (batch = first dimension "N" of every input) in place; the results stay bit-identical.

    `size` is one of the image sizes if inputs depend on them ("H/8"); those dimensions then stay symbolic. Shapes that the
    exporter computes at run time become constants. Neutral arithmetic, redundant transposes, unused nodes, and source file names
    and lines are removed; the latter would make the file depend on the machine.
    """
    shapes = _shapes(model, size)
    _fix_reshapes(model, shapes)
    if size is not None:
        _copy_shapes(model, shapes)
    _drop_neutral(model, shapes)
    _merge_transposes(model, shapes)
    _plain_einsums(model)
    _record_shapes(model, shapes)
    for simplify in (
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        simplify(model)
