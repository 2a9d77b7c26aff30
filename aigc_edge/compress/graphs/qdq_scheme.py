"""The form of an int8 graph that an engine wants: which tensors are quantised, how, and what is rewritten before."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.activation_matmuls import activation_matmuls
from aigc_edge.compress.graphs.first_and_last import without_first_and_last
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.norms import MEANS, without_reshape
from aigc_edge.compress.graphs.transposed import as_convolutions


@dataclass(frozen=True)
class QdqScheme:
    """`symmetric` activations are int8 with zero point 0, the others uint8 with a zero point; `fused` results are quantised too.

    `products` of two activations are quantised in engines that have attention in int8. `exact`: the engine computes what the Q/DQ
    nodes say, so onnxruntime without its own fusions stands for it when quality is measured. `early`: values are quantised before
    they are moved. Without `vectors` products of a single vector have weights in int8 only.
    """

    symmetric: bool = False
    fused: bool = False
    activation_matmuls: bool = False
    exact: bool = True
    early: bool = False
    vectors: bool = True

    def layers(self, model: onnx.ModelProto) -> list[Layer]:
        """All that is to be quantised in `model`, in order of execution."""
        found = without_first_and_last(model, [layer for layer in graph.layers(model) if not layer.weight.endswith(MEANS)])
        if not self.activation_matmuls:
            return found
        order = {node.output[0]: index for index, node in enumerate(model.graph.node)}
        return sorted([*found, *activation_matmuls(model)], key=lambda layer: order[layer.node])


SCHEMES = {
    "onnxruntime": QdqScheme(fused=True, exact=False),
    "tensorrt": QdqScheme(symmetric=True),
    "openvino": QdqScheme(activation_matmuls=True, early=True, vectors=False),
}


def adapt_for_engine(model: onnx.ModelProto, engine: str) -> onnx.ModelProto:
    """`model` rewritten for the int8 kernels that `engine` has; it computes the same up to rounding."""
    constants = {tensor.name for tensor in model.graph.initializer}
    if any(node.op_type in ("Mul", "Pow") and {*node.input} <= constants for node in model.graph.node):
        # As in StyleGAN's demodulation: a weight that is read in float too would be stored twice.
        model = folded(model, ("Pow", "ReduceSum", "Sqrt", "Add"))
    if engine == "tensorrt":
        return model
    model = as_convolutions(model)
    return without_reshape(model) if engine == "openvino" else model
