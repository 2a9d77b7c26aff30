"""Constant folding: turns a graph with compressed weights into the float graph that engines compute.

It uses the ONNX reference implementation on the nodes of the file itself, so the float graph is exact also for types that no
local engine supports, and it runs at the speed of a float graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from aigc_edge.compress.graphs.opset import opset_of
from aigc_edge.compress.graphs.rewrite import assembled

_FOLDED = frozenset(("DequantizeLinear", "Cast", "Reshape", "Transpose", "Mul", "Add", "Concat"))


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with weights that are dequantised, cast, reshaped at run time as constants."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    computed: dict[str, npt.NDArray[Any]] = {}
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        known = all(name in constants or name in computed or not name for name in node.input)
        if node.op_type not in _FOLDED or not known or not node.input:
            kept.append(node)
            continue
        names = [name for name in node.input if name]
        values = {name: computed[name] if name in computed else numpy_helper.to_array(constants[name]) for name in names}
        results: Any = ReferenceEvaluator(node, opsets={"": opset_of(model)}).run(None, values)
        computed[node.output[0]] = np.asarray(results[0])
    # One at a time: the floats of a large network need not be in memory twice.
    return assembled(model, kept, (numpy_helper.from_array(computed.pop(name), name) for name in list(computed)))
