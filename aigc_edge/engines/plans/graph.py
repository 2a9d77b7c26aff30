"""Checks whether TensorRT can parse an ONNX file, and lists the format that it requests for each convolution and matrix product.

Weights are not read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_edge.bundle.external import check_locations
from aigc_edge.errors import AigcEdgeError

Shapes = Mapping[str, Sequence[Sequence[int]]]  # input → its min, opt and max shape
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_STANDARD = ("", "ai.onnx")
_AGAIN = "export the network again"
_SAME_VALUES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Expand")
_WEIGHTS_ONLY = {"int8": "int8w", "fp8": "fp8w", "int4": "int4", "fp4": "nvfp4"}
_BOTH = {"int8": "int8", "fp8": "fp8", "int4": "int4", "fp4": "w4a4"}


@dataclass(frozen=True)
class RequestedLayer:
    """A convolution or matrix product: its format in the ONNX file, the type that it should run in, the surrounding float type,
    and its output tensor, which identifies it in compression reports."""

    name: str
    operator: str
    format: str
    runs: str
    around: str
    output: str = field(default="", compare=False)


def check_model(path: Path, shapes: Shapes | None = None) -> list[RequestedLayer]:
    """The convolutions and matrix products of the network in `path`.

    Empty where `onnx` is not installed; TensorRT's own parser decides there. Raises AigcEdgeError unless the file is a complete
    ONNX model of standard operators whose only dynamic dimension is the batch (or has a range in `shapes`).
    """
    try:
        if path.stat().st_size == 0:
            raise AigcEdgeError(f"{path.name} is empty: {_AGAIN}")  # TensorRT parses an empty file successfully
    except OSError as error:
        raise AigcEdgeError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from error
    if importlib.util.find_spec("onnx") is None:
        return []
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # DecodeError has no public base
        raise AigcEdgeError(f"{path.name} is not a valid ONNX file, most likely it is truncated: {_AGAIN}") from error
    check_locations(_tensors(model.graph), path)
    nodes = list(_nodes(model.graph))
    _check_operators(path, model, nodes)
    try:
        onnx.checker.check_model(_without_files(model) or str(path))
    except Exception as error:  # ValidationError and others share no base
        reason = " ".join(str(error).split()).partition(" ==> ")[0] or type(error).__name__
        raise AigcEdgeError(f"{path.name} is not a valid ONNX file ({reason[:200]}): {_AGAIN}") from error
    for tensor in model.graph.input:
        sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.type.tensor_type.shape.dim]
        _check_shapes(path.name, tensor.name, sizes, (shapes or {}).get(tensor.name))
    return _Types(model).requested()


def _without_files(model: Any) -> Any:
    """A copy of the model with external tensors as inputs, since the checker refuses links; None without external tensors."""
    from onnx import helper

    if not any(tensor.external_data for tensor in model.graph.initializer):
        return None
    copy = type(model)()
    copy.CopyFrom(model)
    external = [tensor for tensor in copy.graph.initializer if tensor.external_data]
    input_names = {value.name for value in copy.graph.input}
    copy.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in external if t.name not in input_names
    )
    for tensor in external:
        copy.graph.initializer.remove(tensor)
    return copy


def _check_operators(path: Path, model: Any, nodes: list[Any]) -> None:
    import onnx

    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in _STANDARD})
    if foreign:
        raise AigcEdgeError(f"{path.name} uses {', '.join(foreign)}: TensorRT runs operators of the standard ONNX domain only")
    constants = {t.name: t for t in _tensors(model.graph)}
    zeros = {node.input[2] for node in nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2}
    if any(name in constants and not constants[name].external_data and _nonzero(constants[name]) for name in zeros):
        raise AigcEdgeError(
            f"{path.name} quantises asymmetrically (zero points that are not zero), which TensorRT does not run: compile the "
            "bundle for a GPU target, which adds a symmetric file"
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=1)
    unknown = sorted({node.op_type for node in nodes if not onnx.defs.has(node.op_type, opset, "")})
    if unknown:
        names = ", ".join(unknown)
        raise AigcEdgeError(f"{path.name} uses {names}, not in ONNX opset {opset}: export it with standard operators")


def _nonzero(tensor: Any) -> bool:
    from onnx import numpy_helper

    return bool(numpy_helper.to_array(tensor).astype(float).any())


def _check_shapes(file: str, name: str, sizes: list[int], profile: Sequence[Sequence[int]] | None) -> None:
    if profile is None:
        if -1 in sizes[1:]:
            raise AigcEdgeError(
                f"the input {name!r} of {file} has a dynamic dimension other than the batch: export it with static shapes"
            )
        return
    low, best, high = profile
    fits = len(low) == len(best) == len(high) == len(sizes) and all(
        1 <= a <= b <= c and size in (-1, a, b, c) and (size == -1 or a == c)
        for a, b, c, size in zip(low, best, high, sizes, strict=True)
    )
    if not fits:  # TensorRT itself accepts min > best
        raise AigcEdgeError(
            f"shapes {list(low)}, {list(best)}, {list(high)} were given for {name!r} of {file}, which is {sizes}: each "
            "dimension needs min <= opt <= max, and static dimensions keep their size"
        )


def _nodes(graph: Any) -> list[Any]:
    nodes = list(graph.node)
    for subgraph in _subgraphs(graph):
        nodes += _nodes(subgraph)
    return nodes


def _tensors(graph: Any) -> list[Any]:
    tensors = list(graph.initializer)
    for node in graph.node:
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    for subgraph in _subgraphs(graph):
        tensors += _tensors(subgraph)
    return tensors


def _subgraphs(graph: Any) -> list[Any]:
    return [g for node in graph.node for a in node.attribute for g in ([a.g] if a.HasField("g") else []) + list(a.graphs)]


class _Types:
    """Element types of a graph's tensors, as far as they determine the types that its layers run in."""

    def __init__(self, model: Any) -> None:
        from onnx import TensorProto as T

        self._names: dict[int, str] = {
            T.FLOAT: "fp32",
            T.FLOAT16: "fp16",
            T.BFLOAT16: "bf16",
            T.INT8: "int8",
            T.UINT8: "int8",
            T.FLOAT8E4M3FN: "fp8",
            T.INT4: "int4",
            T.UINT4: "int4",
            T.FLOAT4E2M1: "fp4",
        }
        self._producers: dict[str, Any] = {}
        self._types: dict[str, str | None] = {t.name: self._names.get(t.data_type) for t in model.graph.initializer}
        self._types |= {v.name: self._names.get(v.type.tensor_type.elem_type) for v in model.graph.input}
        self._products: list[Any] = []
        for node in _nodes(model.graph):  # in topological order: inputs come before their readers
            self._infer(node)

    def _infer(self, node: Any) -> None:
        attributes = {a.name: a for a in node.attribute}
        inputs = [self._types.get(name) for name in node.input]
        type = next((t for t in inputs if t in ("fp32", "fp16", "bf16")), next((t for t in inputs if t), None))
        if node.op_type == "Cast":
            type = self._names.get(attributes["to"].i)
        elif node.op_type == "Constant" and "value" in attributes:
            type = self._names.get(attributes["value"].t.data_type)
        elif node.op_type == "QuantizeLinear":
            to = attributes["output_dtype"].i if "output_dtype" in attributes else 3  # TensorProto.INT8
            type = inputs[2] if len(inputs) > 2 else self._names.get(to)
        elif node.op_type == "DequantizeLinear":
            type = inputs[1]
        for output in node.output:
            self._types[output], self._producers[output] = type, node
        if node.op_type in PRODUCTS:
            self._products.append(node)

    def requested(self) -> list[RequestedLayer]:
        return [self._layer(node) for node in self._products]

    def _layer(self, node: Any) -> RequestedLayer:
        left, right = (self._quantised_type(name) for name in node.input[:2])
        floats = [self._types.get(name) for name in node.input[:2]]
        around = next((t for t in floats if t in ("fp32", "fp16", "bf16")), "fp32")
        name = node.name or f"node_of_{node.output[0]}"  # the name that TensorRT's parser assigns
        if left and left == right:
            return RequestedLayer(name, node.op_type, _BOTH[left], left, around, node.output[0])
        if left or right:
            return RequestedLayer(name, node.op_type, _WEIGHTS_ONLY[left or right or ""], around, around, node.output[0])
        return RequestedLayer(name, node.op_type, around, around, around, node.output[0])

    def _quantised_type(self, name: str) -> str | None:
        """The quantised type of a tensor before it is dequantised; None when it is not quantised."""
        node = self._producers.get(name)
        while node is not None and node.op_type in _SAME_VALUES:
            node = self._producers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        type = self._types.get(node.input[0])
        return type if type in _BOTH else None
