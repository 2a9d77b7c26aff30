"""The share of a network's weights that is stored in a format: what no pass recognised as a weight counts as left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import TensorProto

from aigc_edge.compress.graphs.graph import Layer, bodies, reads

LEAST = 256  # elements: smaller tensors are scales, shapes and tables of numbers
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def weight_elements(graph: onnx.GraphProto) -> int:
    """The number of elements of all float tensors with two axes or more: initialisers and constants, in subgraphs too."""
    tensors = [*graph.initializer, *(tensor for node in graph.node for tensor in _tensors(node))]
    sizes = [math.prod(tensor.dims) for tensor in tensors if tensor.data_type in _FLOATS and len(tensor.dims) > 1]
    inner = [item.g for node in graph.node for item in node.attribute if item.type == onnx.AttributeProto.GRAPH]
    return sum(size for size in sizes if size >= LEAST) + sum(map(weight_elements, inner))


def captured_weights(graph: onnx.GraphProto, kind: int) -> dict[str, int]:
    """The number of elements of each initialiser of type `kind` that bodies of control flow read, directly or cast."""
    read = {name for node in graph.node if bodies(node) for name in reads(node)}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" and node.output[0] in read}
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == kind and len(tensor.dims) > 1}
    stored = {name: tensors[source] for name in read if (source := casts.get(name, name)) in tensors}
    sizes = {name: math.prod(tensor.dims) for name, tensor in stored.items()}
    return {name: size for name, size in sizes.items() if size >= LEAST}


def weight_share(chosen: Sequence[Layer], elements: int, captured: Mapping[str, int] | None = None) -> float:
    """The share of `elements` weights that the layers `chosen` hold, a weight with several readers counted once.

    `captured` are the sizes of others in the format, by name.
    """
    stored = {**(captured or {}), **{layer.weight: layer.bytes // 4 for layer in chosen}}
    return min(1.0, sum(stored.values()) / elements) if elements else 1.0


def _tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    return (item.t for item in node.attribute if item.type == onnx.AttributeProto.TENSOR)
