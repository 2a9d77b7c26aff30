"""Constant folding: turns a graph with compressed weights into the float graph that engines compute.

It uses the ONNX reference implementation on the nodes of the file itself, so the float graph is exact also for types that no
local engine supports, and it runs at the speed of a float graph.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aigc_edge.compress.graphs.rewrite import shell_of

_FOLDED = frozenset(("DequantizeLinear", "Cast", "Reshape", "Transpose", "Mul", "Concat"))


def folded(model: onnx.ModelProto, also: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of `model` with weights that are dequantised, cast, reshaped (`also` names more) at run time as constants."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    computed: dict[str, npt.NDArray[Any]] = {}
    kept: list[onnx.NodeProto] = []
    opsets: list[Any] = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    for node in model.graph.node:
        known = all(name in constants or name in computed or not name for name in node.input)
        if node.op_type not in (*_FOLDED, *also) or not known or not node.input:
            kept.append(node)
            continue
        names = [name for name in node.input if name]
        values = {name: computed[name] if name in computed else numpy_helper.to_array(constants[name]) for name in names}
        computed[node.output[0]] = _evaluated(node, values, opsets)
    read = {name for node in kept for name in node.input} | {value.name for value in model.graph.output}
    result = shell_of(model)
    result.graph.node.extend(kept)
    result.graph.initializer.extend(tensor for name, tensor in constants.items() if name in read)
    for name in list(computed):
        value = computed.pop(name)  # one at a time: the floats of a large network need not be in memory twice
        if name in read:
            result.graph.initializer.append(numpy_helper.from_array(value, name))
    return result


def _evaluated(node: onnx.NodeProto, values: dict[str, npt.NDArray[Any]], opsets: list[Any]) -> npt.NDArray[Any]:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    output = onnx.ValueInfoProto(name=node.output[0])
    graph = helper.make_graph([node], "constant", inputs, [output])
    results: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, values)
    return np.asarray(results[0])
