"""The form of an int8 graph that an engine wants: which tensors are quantised, how, and what is rewritten before."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from aigc_edge.compress import graph
from aigc_edge.compress.graph import Layer
from aigc_edge.compress.norms import without_reshape
from aigc_edge.compress.products import products
from aigc_edge.compress.transposed import as_convolutions

FEW = 8  # output channels: OpenVINO's transposed convolution is the faster below


@dataclass(frozen=True)
class Form:
    """`symmetric` activations are int8 with zero point 0, the others uint8 with a zero point; `fused` results are quantised too.

    `products` of two activations are quantised in engines that have attention in int8. `exact`: the engine computes what the Q/DQ
    nodes say, so onnxruntime without its own fusions stands for it when quality is measured.
    """

    symmetric: bool = False
    fused: bool = False
    products: bool = False
    exact: bool = True

    def layers(self, model: onnx.ModelProto) -> list[Layer]:
        """All that can be quantised in `model`, in order of execution."""
        found = graph.layers(model, ("ConvTranspose",) if self.products else ())
        if not self.products:
            return found
        order = {node.output[0]: index for index, node in enumerate(model.graph.node)}
        return sorted([*found, *products(model)], key=lambda layer: order[layer.node])


FORMS = {
    "onnxruntime": Form(fused=True, exact=False),
    "tensorrt": Form(symmetric=True),
    "openvino": Form(products=True),
}


def suited(model: onnx.ModelProto, engine: str) -> onnx.ModelProto:
    """`model` rewritten for the int8 kernels that `engine` has; it computes the same up to rounding."""
    if engine == "tensorrt":
        return model
    if engine == "onnxruntime":
        return as_convolutions(model)
    return without_reshape(as_convolutions(model, FEW))
