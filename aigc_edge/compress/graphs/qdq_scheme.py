"""Engine Q/DQ schemes of int8: which tensors are quantised, how, and what is rewritten before."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.activation_matmuls import activation_matmuls
from aigc_edge.compress.graphs.first_and_last import without_first_and_last
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.norms import MEANS, without_reshape
from aigc_edge.compress.graphs.transposed import as_convolutions


@dataclass(frozen=True)
class QdqScheme:
    """How an engine needs Q/DQ nodes.

    `symmetric` activations are int8 with zero point 0 (as TensorRT requires); the others uint8 with a zero point (twice the
    resolution behind a ReLU or SiLU, and the type that x86 multiplies). With `fused` the results of convolutions and the biases
    of Gemm are quantised too, without which onnxruntime has no int8 kernels for them; TensorRT needs neither, and refuses int32
    biases. `activation_matmuls`: products of two activations are quantised, as engines with attention in int8 need. `exact`: the
    engine computes the Q/DQ nodes as written, so onnxruntime without its own fusions emulates it in evaluations. With `early`,
    values that are moved before they are multiplied are quantised before they are moved, where nothing else reads them: a quarter
    of the bytes. Without `vectors` a Gemm of one vector per sample, which is bound by its weights, is weight-only.
    """

    symmetric: bool = False
    fused: bool = False
    activation_matmuls: bool = False
    exact: bool = True
    early: bool = False
    vectors: bool = True

    def layers(self, model: onnx.ModelProto) -> list[Layer]:
        """The layers of `model` to quantise, in order of execution."""
        weighted = without_first_and_last(model, [layer for layer in graph.layers(model) if not layer.weight.endswith(MEANS)])
        if not self.activation_matmuls:
            return weighted
        order = {node.output[0]: index for index, node in enumerate(model.graph.node)}
        return sorted([*weighted, *activation_matmuls(model)], key=lambda layer: order[layer.node])


SCHEMES = {
    "onnxruntime": QdqScheme(fused=True, exact=False),
    "tensorrt": QdqScheme(symmetric=True),
    "openvino": QdqScheme(activation_matmuls=True, early=True, vectors=False),
}


def adapt_for_engine(model: onnx.ModelProto, engine: str) -> onnx.ModelProto:
    """`model` rewritten for the int8 kernels of `engine`; it computes the same up to rounding."""
    if engine == "tensorrt":
        return model
    model = as_convolutions(model)
    return without_reshape(model) if engine == "openvino" else model
