"""Matrix products of two activations, as in attention: layers without weights."""

from __future__ import annotations

import numpy as np
import onnx

from aigc_edge.compress.graphs.graph import Layer, at_default_size

ACTIVATION_MATMUL = "Product"  # the op of such a layer: its `weight` is a tensor, its `bytes` are 0


def activation_matmuls(model: onnx.ModelProto) -> list[Layer]:
    """The matrix products of two computed tensors, in order of execution."""
    known = at_default_size(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    matmuls: list[Layer] = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or constants & {*node.input} or node.input[0] == node.input[1]:
            continue
        out = node.output[0]
        if out not in known or node.input[0] not in known:
            continue
        inner = known[node.input[0]][1][-1:] or [1]
        macs = int(np.prod([size or 1 for size in (*known[out][1], *inner)]))
        matmuls.append(Layer(f"{out} (product)", ACTIVATION_MATMUL, out, node.input[0], node.input[1], None, 0, out, macs, 0))
    return matmuls
