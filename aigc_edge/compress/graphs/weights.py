"""Weights that formats can store in fewer bits, and their form as matrices [outputs, inputs]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.graphs.graph import WEIGHTED, Layer, layers, readers

Rows = npt.NDArray[np.float32]


def weights_of(model: onnx.ModelProto, *, inner: bool = False) -> list[Layer]:
    """Every node with a float32 weight: convolutions (transposed ones too), matrix products and embedding tables.

    With `inner`, those in bodies of control flow too.
    """
    return layers(model, WEIGHTED, inner=inner)


def weight_input(layer: Layer) -> int:
    """The index of the weight among the node's inputs."""
    return WEIGHTED[layer.op]


def first_and_last(layers: Sequence[Layer]) -> set[str]:
    """The nodes of the first and the last of `layers` that multiply; none of fewer than three."""
    multiplying = [layer for layer in layers if layer.op != "Gather"]
    return {layer.node for layer in (multiplying[0], multiplying[-1])} if len(multiplying) > 2 else set()


def shared(model: onnx.ModelProto) -> set[str]:
    """The constants with more than one reader."""
    reading = readers(model)
    return {tensor.name for tensor in model.graph.initializer if len(reading.get(tensor.name, ())) > 1}


def to_rows(layer: Layer, weight: npt.NDArray[np.float32]) -> Rows:
    """The weight as [outputs, inputs]; for a convolution the inputs run over the channels and, inside, the kernel positions.

    For a transposed convolution the outputs run over channels and kernel positions, and the inputs over channels.
    """
    if layer.op == "ConvTranspose":
        return np.ascontiguousarray(weight.reshape(len(weight), -1).T)
    rows = weight if layer.axis == 0 else weight.T
    return np.ascontiguousarray(rows.reshape(len(rows), -1))


def from_rows(layer: Layer, rows: Rows, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The inverse of `to_rows`: the weight in its shape."""
    upright = layer.axis == 0 and layer.op != "ConvTranspose"
    return np.ascontiguousarray(rows if upright else rows.T).reshape(shape)
