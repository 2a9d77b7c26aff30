"""Validates a third-party ONNX file, infers the roles of its inputs, and gives it the signature that the runtime expects."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.external import ExternalData, check_locations, mapped, read_weights
from aigc_edge.bundle.sizes import METADATA, Size, named
from aigc_edge.bundle.spec import BATCH, ComponentSpec, Role
from aigc_edge.compress.graphs.graph import outline
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.hardware import import_onnxruntime

OPSET, LEAST_OPSET = 20, 9  # supported by quantisers and TensorRT; the oldest that onnx can convert
_PROBE = (1, 1, 24, 40)  # a probe shape to measure how its sides scale
SMALL = 1024  # elements: shapes, axes and similar constants are smaller
_AGAIN = "export it again"


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


def checked_model(path: Path) -> onnx.ModelProto:
    """As `read_model`, but raises AigcEdgeError for a model that cannot be run, with the reason."""
    model = _parsed(path)
    if not model.graph.node or not model.graph.output:
        raise AigcEdgeError(f"{path} contains no network: {_AGAIN}")
    _check_operators(model, path)
    _read_small(model, path)
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise AigcEdgeError(
                f"{path.name} has {kind} weights: export it in float32, from which formats such as fp16 are derived"
            )
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(_values(tensor, path)).all():
            raise AigcEdgeError(f"the weight {tensor.name!r} of {path.name} contains NaN or infinity: check the training")
    return _at_opset(model, path)


def read_model(path: Path) -> onnx.ModelProto:
    """The model in `path` at our opset. Large external weights are not loaded."""
    model = _parsed(path)
    _read_small(model, path)
    return _at_opset(model, path)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(os.fspath(path), load_external_data=False)
    except Exception as error:  # protobuf's own errors have no useful base class
        raise AigcEdgeError(
            f"{path} is not a readable ONNX file ({type(error).__name__}), it may be truncated: {_AGAIN}"
        ) from error


def _read_small(model: onnx.ModelProto, path: Path) -> None:
    """Load external data except large float weights; small constants may determine shapes."""
    check_locations(model.graph.initializer, path)
    large = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and math.prod(t.dims) > SMALL]
    names = {tensor.name for tensor in large}
    read_weights([tensor for tensor in model.graph.initializer if tensor.name not in names], path)


def files_beside(path: Path) -> list[Path]:
    """The external weight files of the model in `path`."""
    places = filter(None, map(ExternalData.of, _parsed(path).graph.initializer))
    return [path.parent / location for location in sorted({place.location for place in places})]


def _values(tensor: onnx.TensorProto, path: Path) -> npt.NDArray[Any]:
    return mapped(tensor, path, np.float32) if ExternalData.of(tensor) else numpy_helper.to_array(tensor)


def _mapped(tensor: onnx.TensorProto, path: Path) -> ir.Tensor:
    return ir.Tensor(mapped(tensor, path, np.float32))


def as_ir(model: onnx.ModelProto, path: Path) -> ir.Model:
    """`model`, read from `path`, as an onnx_ir model; external weights are read on demand."""
    external = {tensor.name: tensor for tensor in model.graph.initializer if ExternalData.of(tensor)}
    ir_model = ir.from_proto(model)
    for name, tensor in external.items():
        # onnx_ir's own external tensors refuse symbolic links.
        values, shape = functools.partial(_mapped, tensor, path), ir.Shape(tensor.dims)
        ir_model.graph.initializers[name].const_value = ir.LazyTensor(values, dtype=ir.DataType.FLOAT, shape=shape, name=name)
    return ir_model


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        names = ", ".join(foreign[:5])
        raise AigcEdgeError(
            f"{path.name} uses {names}: engines run operators of the standard ONNX domain only; {_AGAIN} without them"
        )
    version = _opset(model)
    for node in model.graph.node:
        try:
            onnx.defs.get_schema(node.op_type, version, node.domain)
        except onnx.defs.SchemaError:
            raise AigcEdgeError(
                f"{path.name} uses {node.op_type!r}, which is not in ONNX opset {version}: {_AGAIN} with standard operators"
            ) from None


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


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


def signature(model: onnx.ModelProto, path: Path) -> tuple[dict[str, GraphTensor], dict[str, GraphTensor]]:
    """Inputs (without constants) and outputs by name; raises AigcEdgeError unless the output is one float32 tensor."""

    def read(value: onnx.ValueInfoProto) -> GraphTensor:
        kind = value.type.tensor_type
        shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
        return GraphTensor(value.name, kind.elem_type, shape)

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: read(value) for value in model.graph.input if value.name not in constants}
    outputs = {value.name: read(value) for value in model.graph.output}
    if len(outputs) != 1 or next(iter(outputs.values())).kind != TensorProto.FLOAT:
        raise AigcEdgeError(
            f"{path.name} returns {', '.join(outputs)}: a network of a bundle returns one float32 tensor; {_AGAIN}"
        )
    return inputs, outputs


def roles_of(inputs: Mapping[str, GraphTensor], role: str, declared: Mapping[str, str], path: Path) -> dict[str, Role]:
    """The role of each input: as declared, otherwise inferred from type and name. Raises AigcEdgeError where it is ambiguous."""
    roles: dict[str, Role] = {}
    for name, tensor in inputs.items():
        if name in declared:
            roles[name] = declared[name]  # type: ignore[assignment]
        elif len(tensor.shape) >= 2 and tensor.kind == TensorProto.FLOAT:
            roles[name] = "condition" if "sample" in roles.values() else "sample"
        elif "class" in name.lower() or "label" in name.lower():
            roles[name] = "class"
        elif role == "denoiser" and len(tensor.shape) <= 1 and "timestep" not in roles.values():
            roles[name] = "timestep"
        else:
            raise AigcEdgeError(f"the role of the input {name!r} of {path.name} cannot be inferred: give --input {name}=ROLE")
    unknown = [name for name in declared if name not in inputs]
    if unknown:
        raise AigcEdgeError(f"{path.name} has no input {unknown[0]!r}: it has {', '.join(inputs)}")
    for required in ["sample"] + (["timestep"] if role == "denoiser" else []):
        if list(roles.values()).count(required) != 1:  # type: ignore[arg-type]
            raise AigcEdgeError(
                f"{path.name} has {', '.join(inputs)}: a {role} takes exactly one {required}; select it with "
                f"--input NAME={required}"
            )
    return roles


def adapted(model: onnx.ModelProto, roles: Mapping[str, Role]) -> onnx.ModelProto:
    """`model`, changed in place to take float32 [N, ...], timesteps float32 [N] and classes int64 [N]."""
    graph, nodes = model.graph, list[onnx.NodeProto]()
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    for value in inputs:
        kind, rank = value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)
        sizes = [size.dim_value for size in list(value.type.tensor_type.shape.dim)[1:]]
        dtype = TensorProto.INT64 if roles[value.name] == "class" else TensorProto.FLOAT
        graph.input.append(helper.make_tensor_value_info(value.name, dtype, [BATCH, *sizes]))
        fixed = rank == 1 and value.type.tensor_type.shape.dim[0].dim_value == 1
        inner = value.name
        if rank == 0 or fixed:  # one timestep for the whole batch
            index, inner = f"{value.name}_index", f"{value.name}_one"
            graph.initializer.append(numpy_helper.from_array(np.array(0 if rank == 0 else [0], np.int64), index))
            nodes.append(helper.make_node("Gather", [value.name, index], [inner], name=inner, axis=0))
        if kind != dtype:
            nodes.append(helper.make_node("Cast", [inner], [f"{value.name}_cast"], name=f"{value.name}_cast", to=kind))
            inner = f"{value.name}_cast"
        if inner != value.name:
            for node in graph.node:
                for position, name in enumerate(node.input):
                    if name == value.name:
                        node.input[position] = inner
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
    for value in graph.output:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]  # shapes may have been recorded for the batch of the export
    return model


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
        raise AigcEdgeError(f"{path.name} cannot be run: {first_line(error)}") from error
