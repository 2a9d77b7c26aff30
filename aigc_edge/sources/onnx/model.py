"""Reads and validates a third-party ONNX file, and infers its signature: roles of inputs, the result, layouts and sizes."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.external import ExternalData, check_locations, mapped, read_weights
from aigc_edge.bundle.sizes import METADATA, Size, named
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.compress.graphs.graph import outline
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.hardware import import_onnxruntime
from aigc_edge.sources.onnx.adapting import in_float32
from aigc_edge.sources.onnx.tensors import HALVES, graphs_of, read_graph

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET, LEAST_OPSET = 20, 9  # supported by quantisers and TensorRT; the oldest that onnx can convert
_PROBE = (1, 1, 24, 40)  # a probe shape to measure how its sides scale
SMALL = 1024  # elements: shapes, axes and similar constants are smaller
_AGAIN = "export it again"


def checked_model(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """`model`, read from `path`, with local functions inlined; raises AigcEdgeError for unknown operators."""
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
    return plain_model(_inlined(read_graph(path), path), path)


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


def _read_small(model: onnx.ModelProto, path: Path) -> None:
    """Load external data except large float32 weights; small constants may determine shapes."""
    own, inner = model.graph.initializer, [tensor for graph in list(graphs_of(model.graph))[1:] for tensor in graph.initializer]
    check_locations([*own, *inner], path)
    small = [tensor for tensor in own if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) <= SMALL]
    read_weights([*small, *inner], path)


def files_beside(path: Path) -> list[Path]:
    """The external weight files of the model in `path`."""
    places = filter(None, map(ExternalData.of, read_graph(path).graph.initializer))
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
