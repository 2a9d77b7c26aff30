"""Shape inference through size arithmetic that ONNX's own inference does not evaluate, for graphs of several image sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

SMALL = 64  # elements: tensors that hold sizes
_ARITHMETIC = frozenset(
    ("Squeeze", "Unsqueeze", "Reshape", "Concat", "Slice", "Gather", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Cast")
)
_ARITHMETIC |= frozenset(("Identity", "Max", "Min", "Floor", "Ceil", "Abs", "Sign", "Where", "Equal", "Less", "Greater", "Not"))
Arrays = dict[str, npt.NDArray[Any]]


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, whose inputs have numbers as sizes, with the shape of every value that can be inferred.

    Values that depend on sizes only are evaluated and replaced by constants, which inference then uses. Raises
    onnx.shape_inference.InferenceError for a graph that does not fit its inputs.
    """
    while True:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        constants = _computed(inferred)
        if not constants:
            return inferred
        model = _with_constants(model, constants)


def _computed(model: onnx.ModelProto) -> Arrays:
    """The results of all nodes that depend only on known shapes and small constants."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    types = {value.name: value.type.tensor_type for value in values}
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in types.items() if kind.HasField("shape")}
    constants: Arrays = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if np.prod(tensor.dims) <= SMALL
    }
    opsets = {entry.domain.replace("ai.onnx", ""): entry.version for entry in model.opset_import}
    results: Arrays = {}
    for node in model.graph.node:
        if node.op_type == "Shape" and all(shapes.get(node.input[0], [0])):
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            sizes = shapes[node.input[0]][slice(bounds.get("start", 0), bounds.get("end"))]
            results[node.output[0]] = np.array(sizes, np.int64)
        elif node.op_type in _ARITHMETIC and all(not name or name in constants or name in results for name in node.input):
            feeds: Any = {name: results.get(name, constants.get(name)) for name in node.input if name}
            outputs: Any = ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
            result = np.asarray(outputs[0])
            if result.size <= SMALL:
                results[node.output[0]] = result
    return results


def _with_constants(model: onnx.ModelProto, constants: Arrays) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(node for node in model.graph.node if node.output[0] not in constants)
    result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return result
