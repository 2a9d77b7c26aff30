"""Reads a foreign ONNX file with suspicion, finds the roles of its inputs, and gives it the signature that the runtime feeds."""

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

from aigc_edge.bundle.external import ExternalData, check_places, mapped, read_weights
from aigc_edge.bundle.sizes import METADATA, Size, named
from aigc_edge.bundle.spec import BATCH, ComponentSpec, Role
from aigc_edge.compress.graphs.graph import outline
from aigc_edge.errors import AigcEdgeError

OPSET, LEAST_OPSET = 20, 9  # what quantisers and TensorRT take; what onnx can bring up to it
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_PROBE = (1, 1, 24, 40)  # a shape to learn by what its sides become
SMALL = 1024  # elements: what shapes, axes and the like are made of is small
_AGAIN = "export it again"


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph: element type of ONNX and sizes, None where they are dynamic."""

    name: str
    kind: int
    shape: tuple[int | None, ...]

    def sizes(self, path: Path) -> tuple[int, ...]:
        """The sizes without the batch; raises AigcEdgeError where one is dynamic."""
        fixed = tuple(size for size in self.shape[1:] if size)
        if len(fixed) != len(self.shape[1:]):
            raise AigcEdgeError(
                f"{self.name!r} of {path.name} has a dynamic size beside the batch, which no height or width of the sample is: "
                "export it for one image size"
            )
        return fixed

    @property
    def sized(self) -> bool:
        """Whether its height and width alone are dynamic, beside the batch."""
        return len(self.shape) == 4 and [not size for size in self.shape[1:]] == [False, True, True]


def checked_model(path: Path) -> onnx.ModelProto:
    """What `read_model` gives; raises AigcEdgeError for a model that cannot be run as it is, saying why."""
    model = _parsed(path)
    if not model.graph.node or not model.graph.output:
        raise AigcEdgeError(f"{path} holds no network: {_AGAIN}")
    _check_operators(model, path)
    _read_small(model, path)
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise AigcEdgeError(f"{path.name} has {kind} weights: export it in float32; formats such as fp16 are made from that")
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(_values(tensor, path)).all():
            raise AigcEdgeError(f"the weight {tensor.name!r} of {path.name} holds NaN or infinity: the training went wrong")
    return _at_opset(model, path)


def read_model(path: Path) -> onnx.ModelProto:
    """The model in `path` at our opset. Large weights that lie beside the file stay there."""
    model = _parsed(path)
    _read_small(model, path)
    return _at_opset(model, path)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(os.fspath(path), load_external_data=False)
    except Exception as error:  # protobuf's own errors have no useful base class
        raise AigcEdgeError(
            f"{path} is no readable ONNX file ({type(error).__name__}): it was cut off or is another; {_AGAIN}"
        ) from error


def _read_small(model: onnx.ModelProto, path: Path) -> None:
    """Read what lies beside the file but the large floats: of small constants shapes are made."""
    check_places(model.graph.initializer, path)
    large = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and math.prod(t.dims) > SMALL]
    names = {tensor.name for tensor in large}
    read_weights([tensor for tensor in model.graph.initializer if tensor.name not in names], path)


def files_beside(path: Path) -> list[Path]:
    """The files that hold weights of the model in `path`."""
    places = filter(None, map(ExternalData.of, _parsed(path).graph.initializer))
    return [path.parent / location for location in sorted({place.location for place in places})]


def _values(tensor: onnx.TensorProto, path: Path) -> npt.NDArray[Any]:
    return mapped(tensor, path, np.float32) if ExternalData.of(tensor) else numpy_helper.to_array(tensor)


def _mapped(tensor: onnx.TensorProto, path: Path) -> ir.Tensor:
    return ir.Tensor(mapped(tensor, path, np.float32))


def as_ir(model: onnx.ModelProto, path: Path) -> ir.Model:
    """`model`, read from `path`, as onnx_ir takes it; weights beside the file are read as they are used."""
    apart = {tensor.name: tensor for tensor in model.graph.initializer if ExternalData.of(tensor)}
    made = ir.from_proto(model)
    for name, tensor in apart.items():
        # onnx_ir's own tensor for this refuses files that are links.
        values, shape = functools.partial(_mapped, tensor, path), ir.Shape(tensor.dims)
        made.graph.initializers[name].const_value = ir.LazyTensor(values, dtype=ir.DataType.FLOAT, shape=shape, name=name)
    return made


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
                f"{path.name} uses {node.op_type!r}, which ONNX opset {version} does not know: {_AGAIN} with standard operators"
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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AigcEdgeError(f"{path.name} is of opset {version} and cannot be brought to {OPSET} ({reason}): {_AGAIN}") from error


def signature(model: onnx.ModelProto, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs (without constants) and outputs by name; raises AigcEdgeError unless the output is one float32 tensor."""

    def read(value: onnx.ValueInfoProto) -> Tensor:
        kind = value.type.tensor_type
        shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
        return Tensor(value.name, kind.elem_type, shape)

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: read(value) for value in model.graph.input if value.name not in constants}
    outputs = {value.name: read(value) for value in model.graph.output}
    if len(outputs) != 1 or next(iter(outputs.values())).kind != TensorProto.FLOAT:
        raise AigcEdgeError(f"{path.name} gives {', '.join(outputs)}: a network of a bundle gives one float32 tensor; {_AGAIN}")
    return inputs, outputs


def roles_of(inputs: Mapping[str, Tensor], role: str, given: Mapping[str, str], path: Path) -> dict[str, Role]:
    """The role of each input: as given, else by type and name. Raises AigcEdgeError where that does not tell."""
    found: dict[str, Role] = {}
    for name, tensor in inputs.items():
        if name in given:
            found[name] = given[name]  # type: ignore[assignment]
        elif len(tensor.shape) >= 2 and tensor.kind == TensorProto.FLOAT:
            found[name] = "condition" if "sample" in found.values() else "sample"
        elif "class" in name.lower() or "label" in name.lower():
            found[name] = "class"
        elif role == "denoiser" and len(tensor.shape) <= 1 and "timestep" not in found.values():
            found[name] = "timestep"
        else:
            raise AigcEdgeError(f"the role of the input {name!r} of {path.name} cannot be told: give --input {name}=ROLE")
    unknown = [name for name in given if name not in inputs]
    if unknown:
        raise AigcEdgeError(f"{path.name} has no input {unknown[0]!r}: it has {', '.join(inputs)}")
    for wanted in ["sample"] + (["timestep"] if role == "denoiser" else []):
        if list(found.values()).count(wanted) != 1:  # type: ignore[arg-type]
            raise AigcEdgeError(
                f"{path.name} has {', '.join(inputs)}: a {role} takes exactly one {wanted}; say which by --input NAME={wanted}"
            )
    return found


def adapted(model: onnx.ModelProto, roles: Mapping[str, Role]) -> onnx.ModelProto:
    """`model`, changed in place to take float32 [N, ...], timesteps float32 [N] and classes int64 [N], whatever it took."""
    graph, nodes = model.graph, list[onnx.NodeProto]()
    constants = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    for value in kept:
        kind, rank = value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)
        sizes = [size.dim_value for size in list(value.type.tensor_type.shape.dim)[1:]]
        wanted = TensorProto.INT64 if roles[value.name] == "class" else TensorProto.FLOAT
        graph.input.append(helper.make_tensor_value_info(value.name, wanted, [BATCH, *sizes]))
        fixed = rank == 1 and value.type.tensor_type.shape.dim[0].dim_value == 1
        inner = value.name
        if rank == 0 or fixed:  # one timestep for the whole batch, which is what a row has
            index, inner = f"{value.name}_index", f"{value.name}_one"
            graph.initializer.append(numpy_helper.from_array(np.array(0 if rank == 0 else [0], np.int64), index))
            nodes.append(helper.make_node("Gather", [value.name, index], [inner], name=inner, axis=0))
        if kind != wanted:
            nodes.append(helper.make_node("Cast", [inner], [f"{value.name}_cast"], name=f"{value.name}_cast", to=kind))
            inner = f"{value.name}_cast"
        if inner != value.name:
            for node in graph.node:
                for place, name in enumerate(node.input):
                    if name == value.name:
                        node.input[place] = inner
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
    for value in graph.output:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]  # sizes that may have been recorded for the batch of the export
    return model


def scale_of(model: onnx.ModelProto, sample: str, path: Path) -> int:
    """How many pixels one place of the sample becomes in each direction; raises AigcEdgeError where shapes do not tell."""
    probe = outline(model)
    for value in probe.graph.input:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value:
                dim.dim_value = _PROBE[place] if value.name == sample else 1
    for value in probe.graph.output:
        value.type.tensor_type.ClearField("shape")
    made = onnx.shape_inference.infer_shapes(probe, data_prop=True).graph.output[0].type.tensor_type.shape.dim
    sides = [dim.dim_value for dim in made][2:]
    scale = sides[0] // _PROBE[2] if len(sides) == 2 else 0
    if scale < 1 or sides != [scale * side for side in _PROBE[2:]]:
        raise AigcEdgeError(
            f"{path.name} has a dynamic size beside the batch, and how large its image then is cannot be told: export it for one "
            "image size"
        )
    return scale


def with_shapes(model: onnx.ModelProto, spec: ComponentSpec, sizes: Sequence[Size]) -> onnx.ModelProto:
    """The model with the shapes of its spec as those of its inputs and outputs, in place."""
    shapes = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    for value in [*model.graph.input, *model.graph.output]:
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
    if sizes:
        helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {METADATA: named(sizes[0])})
    return model


def engine_takes(model: Any, path: Path) -> Any:
    """An onnxruntime session of the model (a file or bytes); raises AigcEdgeError with its reason."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes derive from Exception only
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise AigcEdgeError(f"{path.name} cannot be run: {reason}") from error
