"""Weights that formats can store in fewer bits, and their form as matrices [outputs, inputs]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Layer, attribute

Rows = npt.NDArray[np.float32]


def weights_of(model: onnx.ModelProto) -> list[Layer]:
    """Every node with a float32 weight: convolutions (transposed ones too), matrix products and embedding tables.

    For an embedding, `input` is the index, `macs` is 0 and the channels are the rows of the table.
    """
    known = graph.at_default_size(model)
    by_node = {layer.node: layer for layer in graph.layers(model)}
    names = {layer.name for layer in by_node.values()}
    for node in model.graph.node:
        place = {"ConvTranspose": 1, "Gather": 0}.get(node.op_type)
        if place is None or node.output[0] in by_node:
            continue
        weight, other = node.input[place], node.input[1 - place]
        kind, shape = known.get(weight, (0, []))
        constant = weight in {tensor.name for tensor in model.graph.initializer}
        if not constant or kind != TensorProto.FLOAT or len(shape) < 2 or other not in known:
            continue
        table = node.op_type == "Gather"
        if table and (len(shape) != 2 or attribute(node, "axis", 0) != 0):
            continue
        places = [size or 1 for size in known[other][1][2:]]
        name = weight.removesuffix(".weight")
        by_node[node.output[0]] = Layer(
            name=name if name not in names else f"{name} ({node.output[0]})",
            op=node.op_type,
            node=node.output[0],
            input=other,
            weight=weight,
            bias=node.input[2] if len(node.input) > 2 else None,
            axis=0 if table else 1,
            output=node.output[0],
            macs=0 if table else int(np.prod(places) * np.prod(shape)),
            bytes=4 * int(np.prod(shape)),
        )
    return [by_node[node.output[0]] for node in model.graph.node if node.output and node.output[0] in by_node]


def weight_input(layer: Layer) -> int:
    """The index of the weight among the node's inputs."""
    return 0 if layer.op == "Gather" else 1


def first_and_last(layers: Sequence[Layer]) -> set[str]:
    """The nodes of the first and the last of `layers` that multiply; none of fewer than three."""
    multiplying = [layer for layer in layers if layer.op != "Gather"]
    return {layer.node for layer in (multiplying[0], multiplying[-1])} if len(multiplying) > 2 else set()


def shared(model: onnx.ModelProto) -> set[str]:
    """The constants with more than one reader."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    return {tensor.name for tensor in model.graph.initializer if readers[tensor.name] > 1}


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
