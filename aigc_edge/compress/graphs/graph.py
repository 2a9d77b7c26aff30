"""Access to ONNX graphs for compression: layers with weights, their cost, files, and a session to run a model.

Not onnx-ir: its loader (1.1) refuses external weights that are symbolic links or have several hard links, which hub caches and
compilations consist of.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from aigc_edge.bundle import external
from aigc_edge.bundle.external import read_weights
from aigc_edge.bundle.sizes import METADATA, Size, number
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file
from aigc_edge.hardware import has_vnni, import_onnxruntime, return_memory

MAPPED_ABOVE = 2**25  # bytes of weights that a session maps from a file; reading a message takes several copies
SMALL, ALIGNMENT = 1024, 4096  # bytes: smaller weights stay in the message; alignment of weights in a file
_BATCHES = (2, 3)
LAYERS = ("Conv", "Gemm", "MatMul")
WEIGHTED = {"Conv": 1, "Gemm": 1, "MatMul": 1, "ConvTranspose": 1, "Gather": 0}  # which input is the weight


@dataclass(frozen=True)
class Layer:
    """One node with constant weights, and its cost.

    `output` is the tensor to quantise behind the node: its output, or that of a Relu that is its only reader (engines fuse it).
    `macs` are multiply-adds for one sample, `bytes` the size of the float32 weight.
    """

    name: str
    op: str
    node: str  # first output of the node, which names it: node names are optional in ONNX, outputs are not
    input: str
    weight: str
    bias: str | None
    axis: int  # of the weight: one scale for each index, an output channel
    output: str
    macs: int
    bytes: int


def load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file (with its external data); raises AigcEdgeError when it is missing or damaged."""
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
    except FileNotFoundError as error:
        raise AigcEdgeError(f"the ONNX file {path} does not exist: export the network first") from error
    except Exception as error:  # protobuf's own errors have no useful base class
        raise AigcEdgeError(f"{path} is not a readable ONNX file ({type(error).__name__}): export the network again") from error
    read_weights(model.graph.initializer, Path(path))
    return model


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _save_external(model: onnx.ModelProto, path: Path, data: Path) -> None:
    """Write the graph to `path` and its weights to `data` beside it, one at a time, without a copy in memory."""
    stubs = outline(model)
    with data.open("wb") as stream:
        for tensor, stub in zip(model.graph.initializer, stubs.graph.initializer, strict=True):
            if stub.data_location != TensorProto.EXTERNAL:
                continue
            stream.seek(-stream.tell() % ALIGNMENT, os.SEEK_CUR)
            place = {"location": data.name, "offset": stream.tell(), "length": stream.write(tensor.raw_data)}
            stub.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items())
    path.write_bytes(stubs.SerializeToString())


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` without the values of its weights; small constants such as shapes are kept."""
    stubs = onnx.ModelProto()
    _copy_fields(model, stubs, but="graph")
    _copy_fields(model.graph, stubs.graph, but="initializer")
    for tensor in model.graph.initializer:
        stub = stubs.graph.initializer.add()
        if len(tensor.raw_data) < SMALL:
            stub.CopyFrom(tensor)
        else:
            stub.name, stub.data_type, stub.data_location = tensor.name, tensor.data_type, TensorProto.EXTERNAL
            stub.dims.extend(tensor.dims)
    return stubs


def _copy_fields(source: Any, target: Any, *, but: str) -> None:
    """Copy all fields of a message except `but`, whose bytes are too many."""
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to `path` atomically; weights of more than `external.ABOVE` bytes go to `path`.data beside it."""
    data = path.with_name(path.name + ".data")
    if _weight_bytes(model) <= external.ABOVE:
        with atomic_file(path) as part:
            onnx.save(model, os.fspath(part))
        data.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)  # its data is about to change: they must never be found in different versions
    try:
        with atomic_file(path) as part:
            _save_external(model, part, data)
    finally:
        if not path.exists():
            data.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes on disk, external data included."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def initialisers(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """All constants by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph without the values of large weights, with inferred types and shapes."""
    # Inference copies the message four times and accepts none beyond 2 GB.
    return onnx.shape_inference.infer_shapes(outline(model), data_prop=True).graph


def types_and_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, list[int]]]:
    """Element type and shape (a dynamic size is 0) of every value, by shape inference."""
    graph = inferred(model)
    known = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        known.setdefault(value.name, (tensor.elem_type, [size.dim_value for size in tensor.shape.dim]))
    return known


def at_default_size(model: onnx.ModelProto) -> dict[str, tuple[int, list[int]]]:
    """`types_and_shapes` at the default image size, for a network with several sizes: only the batch is then 0."""
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    if text is None:
        return types_and_shapes(model)
    height, width = map(int, text.split("x"))
    results = [_at(model, batch, (height, width)) for batch in _BATCHES]
    same: dict[str, tuple[int, list[int]]] = {}
    for name, (kind, shape) in results[0].items():
        other = results[1].get(name, (kind, shape))[1]
        same[name] = kind, [a if a == b else 0 for a, b in zip(shape, other, strict=True)] if len(shape) == len(other) else []
    return same


def _at(model: onnx.ModelProto, batch: int, size: Size) -> dict[str, tuple[int, list[int]]]:
    """Types and shapes for inputs of one batch and one image size."""
    copy = outline(model)
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in copy.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                dim.dim_value = batch if place == 0 else int(number(dim.dim_param, size))
    return types_and_shapes(copy)


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of `model` with `tensors` as further outputs, in the order of their names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in [*copy.graph.input, *copy.graph.output]}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted({*tensors} - present))
    return copy


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute of `node`, or `default`."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies of If, Loop and Scan; none of other operators."""
    return [body for item in node.attribute for body in ([item.g] if item.HasField("g") else item.graphs)]


def reads(node: onnx.NodeProto) -> list[str]:
    """The names that `node` reads, with those that its bodies capture."""
    captured = [name for body in bodies(node) for inner in body.node for name in reads(inner)]
    return [*node.input, *captured, *(value.name for body in bodies(node) for value in body.output)]


def inner_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of all bodies in `graph`, at any depth."""
    for node in graph.node:
        for body in bodies(node):
            yield from body.node
            yield from inner_nodes(body)


def readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, once for each input; outputs of the graph have an empty node as an additional reader."""
    reading: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in reads(node):
            reading.setdefault(name, []).append(node)
    for value in model.graph.output:
        reading.setdefault(value.name, []).append(onnx.NodeProto())
    return reading


def layers(model: onnx.ModelProto, operators: Collection[str] = LAYERS, *, inner: bool = False) -> list[Layer]:
    """The nodes of the `operators` (among WEIGHTED) with a constant float32 weight, in order of execution.

    For an embedding, `input` is the index, `macs` is 0 and the channels are the rows of the table. With `inner`, those in bodies
    of control flow come last, with `macs` for one place.
    """
    nodes = [*model.graph.node, *(inner_nodes(model.graph) if inner else ())]
    known, reading = at_default_size(model), readers(model)
    constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    relu = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    by_node: dict[str, Layer] = {}
    names: set[str] = set()
    for node in sorted(nodes, key=lambda node: node.op_type not in LAYERS):  # those in LAYERS are named first
        op, place = node.op_type, WEIGHTED.get(node.op_type, 0)
        if op not in WEIGHTED or node.input[place] not in constants or node.input[1 - place] in constants:
            continue
        weight, source, out = node.input[place], node.input[1 - place], node.output[0]
        shape, convolution, table = known[weight][1], op.startswith("Conv"), op == "Gather"
        if len(shape) < 2 or (not convolution and len(shape) != 2) or attribute(node, "transA", 0):
            continue
        if (table and attribute(node, "axis", 0)) or (op not in LAYERS and source not in known):
            continue
        axis = 0 if op in ("Conv", "Gather") or attribute(node, "transB", 0) else 1
        if op == "ConvTranspose":  # every input pixel meets the whole weight
            macs = np.prod([size or 1 for size in known[source][1][2:]]) * np.prod(shape)
        else:
            places = [size or 1 for size in known[out][1]] if out in known else shape[axis : axis + 1]
            macs = 0 if table else np.prod(places) * np.prod(shape) // shape[axis]
        fused = op in LAYERS and out in relu and len(reading[out]) == 1
        name = weight.removesuffix(".weight")
        name = f"{name} ({out})" if name in names else name
        names.add(name)
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in constants else None
        behind, size = relu[out] if fused else out, 4 * int(np.prod(shape))
        by_node[out] = Layer(name, op, out, source, weight, bias, axis, behind, int(macs), size)
    return [by_node[node.output[0]] for node in nodes if node.output[0] in by_node and node.op_type in operators]


class Network:
    """An ONNX model in onnxruntime's CPU provider.

    `exact` computes Q/DQ nodes as they are written instead of fusing them into int8 kernels: as engines do that quantise only
    the inputs of layers, but slower. What a function returns is freed before the session prepacks the weights, if nothing else
    holds it.
    """

    def __init__(
        self, model: onnx.ModelProto | Path | Callable[[], onnx.ModelProto], *, threads: int = 1, exact: bool = False
    ) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        if exact:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        elif not has_vnni():  # the fast kernels of older CPUs saturate silently
            options.add_session_config_entry("session.x64quantprecision", "1")
        with tempfile.TemporaryDirectory() as folder:
            place = _openable(model, Path(folder))
            self._session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
        self.outputs: list[str] = [value.name for value in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """All outputs for `inputs`."""
        result: list[npt.NDArray[Any]] = self._session.run(None, inputs)
        return result


def _openable(model: onnx.ModelProto | Path | Callable[[], onnx.ModelProto], folder: Path) -> str | bytes:
    """The path of the model, or the model as bytes, or when it is large as a file in `folder` with external weights."""
    model = model() if callable(model) else model
    if isinstance(model, Path):
        return os.fspath(model)
    if _weight_bytes(model) <= MAPPED_ABOVE:
        return model.SerializeToString()
    path = folder / "model.onnx"
    _save_external(model, path, path.with_suffix(".data"))
    del model
    return_memory()
    return os.fspath(path)
