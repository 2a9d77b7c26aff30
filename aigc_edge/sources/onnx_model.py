"""Reads and validates a third-party ONNX file, and infers its signature: roles of inputs, the result, layouts and sizes."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.external import ExternalData, check_locations, mapped, read_weights
from aigc_edge.bundle.sizes import METADATA, Size, named
from aigc_edge.bundle.spec import ComponentSpec, Role
from aigc_edge.compress.graphs.graph import outline
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.hardware import import_onnxruntime
from aigc_edge.sources.onnx_adapting import HALVES, graphs_of, in_float32

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET, LEAST_OPSET = 20, 9  # supported by quantisers and TensorRT; the oldest that onnx can convert
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, *HALVES)
_CLASS = re.compile("class|label", re.IGNORECASE)
_TIME = re.compile(r"time|sigma|noise_level|(?<![a-z])(t|ts|step)(?![a-z])", re.IGNORECASE)
_PROBE = (1, 1, 24, 40)  # a probe shape to measure how its sides scale
SMALL = 1024  # elements: shapes, axes and similar constants are smaller
_AGAIN = "export it again"
_ALIAS = "ai.onnx"  # of the standard domain, ""


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph: ONNX element type and shape, None for dynamic dimensions."""

    name: str
    kind: int
    shape: tuple[int | None, ...]

    def sizes(self, path: Path) -> tuple[int, ...]:
        """The shape without the batch; raises AigcEdgeError where a dimension is dynamic."""
        fixed = tuple(size for size in self.shape[1:] if size)
        if len(fixed) != len(self.shape[1:]):
            raise AigcEdgeError(
                f"{self.name!r} of {path.name} has a dynamic dimension that is neither the batch nor height or width of the "
                "sample: export it for one image size"
            )
        return fixed

    @property
    def sized(self) -> bool:
        """Whether only its height and width are dynamic, besides the batch."""
        return len(self.shape) == 4 and [not size for size in self.shape[1:]] == [False, True, True]


def parsed_model(path: Path) -> onnx.ModelProto:
    """The graph in `path`, local functions inlined, without external weights; raises AigcEdgeError for unknown operators."""
    model = _parsed(path)
    if not model.graph.node or not model.graph.output:
        raise AigcEdgeError(f"{path} contains no network: {_AGAIN}")
    model = _inlined(model, path)
    _check_operators(model, path)
    return model


def check_weights(model: onnx.ModelProto, path: Path) -> None:
    """Raise AigcEdgeError for weights of `model`, read from `path`, that are not finite."""
    for tensor in itertools.chain.from_iterable(graph.initializer for graph in graphs_of(model.graph)):
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(_values(tensor, path)).all():
            raise AigcEdgeError(f"the weight {tensor.name!r} of {path.name} contains NaN or infinity: check the training")


def read_model(path: Path) -> onnx.ModelProto:
    """The model in `path` in float32 and at our opset, local functions inlined. Large external weights are not loaded."""
    return plain_model(_inlined(_parsed(path), path), path)


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Functions that the file itself defines, by their nodes."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # onnx's C++ exceptions
        what = f"the functions in {path.name} cannot be inlined ({first_line(error)})"
        raise AigcEdgeError(f"{what}: {_AGAIN} without them") from error


def plain_model(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Small constants read, half precision and float64 weights converted, at our opset."""
    _read_small(model, path)
    tensors = itertools.chain.from_iterable(graph.initializer for graph in graphs_of(model.graph))
    doubles = any(tensor.data_type == TensorProto.DOUBLE and len(tensor.dims) > 1 for tensor in tensors)
    return _at_opset(in_float32(model, (*HALVES, TensorProto.DOUBLE) if doubles else HALVES), path)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
    except Exception as error:  # protobuf's own errors have no useful base class
        raise AigcEdgeError(
            f"{path} is not a readable ONNX file ({type(error).__name__}), it may be truncated: {_AGAIN}"
        ) from error
    return _one_domain(model)


def _one_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place: the standard domain is called "" everywhere, never by its alias "ai.onnx"."""
    for holder in (model, *model.functions):
        versions: dict[str, int] = {}
        for entry in holder.opset_import:
            versions.setdefault("" if entry.domain == _ALIAS else entry.domain, entry.version)
        if any(entry.domain == _ALIAS for entry in holder.opset_import):
            del holder.opset_import[:]
            holder.opset_import.extend(helper.make_opsetid(*item) for item in versions.items())
    functions = (graphs_of(function) for function in model.functions)  # which have nodes as graphs do
    nodes = itertools.chain.from_iterable(graph.node for graph in itertools.chain(graphs_of(model.graph), *functions))
    for item in itertools.chain(nodes, model.functions):
        if item.domain == _ALIAS:
            item.domain = ""
    return model


def _read_small(model: onnx.ModelProto, path: Path) -> None:
    """Load external data except large float32 weights; small constants may determine shapes."""
    own, inner = model.graph.initializer, [tensor for graph in list(graphs_of(model.graph))[1:] for tensor in graph.initializer]
    check_locations([*own, *inner], path)
    small = [tensor for tensor in own if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) <= SMALL]
    read_weights([*small, *inner], path)


def files_beside(path: Path) -> list[Path]:
    """The external weight files of the model in `path`."""
    places = filter(None, map(ExternalData.of, _parsed(path).graph.initializer))
    return [path.parent / location for location in sorted({place.location for place in places})]


def _values(tensor: onnx.TensorProto, path: Path) -> npt.NDArray[Any]:
    return mapped(tensor, path, np.float32) if ExternalData.of(tensor) else numpy_helper.to_array(tensor)


def as_ir(model: onnx.ModelProto, path: Path) -> ir.Model:
    """`model`, read from `path`, as an onnx_ir model; external weights are read on demand."""
    import onnx_ir as ir  # slow to import, and not needed to refuse a file

    def values(tensor: onnx.TensorProto) -> ir.Tensor:
        return ir.Tensor(mapped(tensor, path, np.float32))

    external = {tensor.name: tensor for tensor in model.graph.initializer if ExternalData.of(tensor)}
    ir_model = ir.from_proto(model)
    for name, tensor in external.items():
        # onnx_ir's own external tensors refuse symbolic links.
        lazy = ir.LazyTensor(functools.partial(values, tensor), dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.dims), name=name)
        ir_model.graph.initializers[name].const_value = lazy
    return ir_model


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    nodes = list(itertools.chain.from_iterable(graph.node for graph in graphs_of(model.graph)))
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain})
    if foreign:
        names = ", ".join(foreign[:5])
        raise AigcEdgeError(
            f"{path.name} uses {names}: engines run operators of the standard ONNX domain only; {_AGAIN} without them"
        )
    version = _opset(model)
    for node in nodes:
        try:
            onnx.defs.get_schema(node.op_type, version, node.domain)
        except onnx.defs.SchemaError:
            raise AigcEdgeError(
                f"{path.name} uses {node.op_type!r}, which is not in ONNX opset {version}: {_AGAIN} with standard operators"
            ) from None


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if not entry.domain), 1)


def _at_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    version = _opset(model)
    if version >= OPSET:
        return model
    try:
        if version < LEAST_OPSET:
            raise ValueError(f"it is older than opset {LEAST_OPSET}")
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own
        reason = first_line(error)
        raise AigcEdgeError(
            f"{path.name} uses opset {version} and cannot be converted to {OPSET} ({reason}): {_AGAIN}"
        ) from error


def tensors_of(model: onnx.ModelProto) -> tuple[dict[str, GraphTensor], dict[str, GraphTensor]]:
    """Inputs, without constants, and outputs by name."""

    def read(value: onnx.ValueInfoProto) -> GraphTensor:
        kind = value.type.tensor_type
        return GraphTensor(value.name, kind.elem_type, tuple(size.dim_value or None for size in kind.shape.dim))

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: read(value) for value in model.graph.input if value.name not in constants}
    return inputs, {value.name: read(value) for value in model.graph.output}


def result_of(outputs: Mapping[str, GraphTensor], chosen: str | None, path: Path) -> GraphTensor:
    """The output that is the network's result: the `chosen` one, or the only one; raises AigcEdgeError for another type."""
    if chosen is not None and chosen not in outputs:
        raise AigcEdgeError(f"{path.name} has no output {chosen!r}: it returns {', '.join(outputs)}")
    if chosen is None and len(outputs) > 1:
        raise AigcEdgeError(f"{path.name} returns {', '.join(outputs)}: choose one of them with --result NAME")
    result = outputs[chosen or next(iter(outputs))]
    if result.kind not in _FLOATS:
        kind = TensorProto.DataType.Name(result.kind).lower()
        raise AigcEdgeError(f"{path.name} returns {result.name} as {kind}: a network of a bundle returns float32; {_AGAIN}")
    return result


def roles_of(inputs: Mapping[str, GraphTensor], role: str, declared: Mapping[str, str], path: Path) -> dict[str, Role]:
    """The role of each input: as declared, otherwise inferred from type and name. Raises AigcEdgeError where it is ambiguous."""
    unknown = [name for name in declared if name not in inputs]
    if unknown:
        raise AigcEdgeError(f"{path.name} has no input {unknown[0]!r}: it has {', '.join(inputs)}")
    roles: dict[str, Role] = {}
    scalars = [name for name, tensor in inputs.items() if len(tensor.shape) <= 1 and name not in declared]
    scalars = [name for name in scalars if not _CLASS.search(name)]
    named_times = [name for name in scalars if _TIME.search(name)]
    times = named_times if len(named_times) == 1 else scalars
    for name, tensor in inputs.items():
        if name in declared:
            roles[name] = declared[name]  # type: ignore[assignment]
        elif len(tensor.shape) >= 2 and tensor.kind in _FLOATS:
            roles[name] = "condition" if "sample" in roles.values() else "sample"
        elif _CLASS.search(name):
            roles[name] = "class"
        elif role == "denoiser" and times == [name] and "timestep" not in declared.values():
            roles[name] = "timestep"
        else:
            advice = f"--input {name}=ROLE, or a constant such as --input {name}=1.0"
            raise AigcEdgeError(f"the role of the input {name!r} of {path.name} cannot be inferred: give {advice}")
    for required in ["sample"] + (["timestep"] if role == "denoiser" else []):
        if list(roles.values()).count(required) != 1:  # type: ignore[arg-type]
            raise AigcEdgeError(
                f"{path.name} has {', '.join(inputs)}: a {role} takes exactly one {required}; select it with "
                f"--input NAME={required}"
            )
    return roles


def scale_of(model: onnx.ModelProto, sample: str, path: Path) -> int:
    """Upscaling factor from the sample to the image; raises AigcEdgeError where it cannot be inferred from shapes."""
    probe = outline(model)
    for value in probe.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value:
                dim.dim_value = _PROBE[axis] if value.name == sample else 1
    for value in probe.graph.output:
        value.type.tensor_type.ClearField("shape")
    output_dims = onnx.shape_inference.infer_shapes(probe, data_prop=True).graph.output[0].type.tensor_type.shape.dim
    sides = [dim.dim_value for dim in output_dims][2:]
    scale = sides[0] // _PROBE[2] if len(sides) == 2 else 0
    if scale < 1 or sides != [scale * side for side in _PROBE[2:]]:
        raise AigcEdgeError(
            f"{path.name} has a dynamic dimension other than the batch, and its image size cannot be inferred: export it for one "
            "image size"
        )
    return scale


def with_shapes(model: onnx.ModelProto, spec: ComponentSpec, sizes: Sequence[Size]) -> onnx.ModelProto:
    """Set the shapes of inputs and outputs to those of the spec, in place."""
    shapes = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    for value in [*model.graph.input, *model.graph.output]:
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
    if sizes:
        helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {METADATA: named(sizes[0])})
    return model


def engine_takes(model: Path, path: Path) -> Any:
    """An onnxruntime session of the file `model`, written from the user's `path`; raises AigcEdgeError with its reason."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the reason is in the exception
    try:
        return onnxruntime.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from Exception only
        reason = first_line(error).replace(os.fspath(model), path.name)  # the model is a copy in a temporary folder
        raise AigcEdgeError(f"{path.name} cannot be run: {reason}") from error
