"""Emulates networks of 16-bit floats by float32 graphs that compute the same values, to evaluate them on a CPU.

onnxruntime has no bfloat16 on a CPU, and computes half precision in float32 across operators, which hides what overflows.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graphs.graph import types_and_shapes
from aigc_edge.compress.graphs.half import recast
from aigc_edge.compress.graphs.rewrite import assembled, copied

_KINDS = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph that computes what `model` does: every tensor of 16-bit floats is rounded by the node that produces it.

    Sums inside an operator are in float32, as in a GPU's tensor cores; engines that fuse operators round less often.
    """
    known = types_and_shapes(model)
    rounds = {name: kind for name, (kind, _) in known.items() if kind in _KINDS}
    if not rounds:
        return model
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        copy = copied(node)
        recast(copy, _KINDS, TensorProto.FLOAT)
        nodes.append(copy)
        for place, name in enumerate(node.output):
            if name in rounds:
                copy.output[place], stored = f"{name}_exact", f"{name}_stored"
                nodes.append(helper.make_node("Cast", [copy.output[place]], [stored], to=rounds[name]))
                nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    halves = [tensor for tensor in model.graph.initializer if tensor.data_type in _KINDS]
    wide = (numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name) for tensor in halves)
    return assembled(model, nodes, wide, retyped=True)
