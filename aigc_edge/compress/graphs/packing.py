"""Stores a weight in few bits: codes and scales as constants, and the DequantizeLinear nodes that turn them into floats.

With one scale per channel the codes keep the weight's shape. Blocks lie along the last two dimensions (as TensorRT requires), so
a convolution's weight is stored as the matrix [outputs, inputs · places] and reshaped behind its DequantizeLinear.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.graphs.graph import Layer, attribute
from aigc_edge.compress.graphs.qdq import master_weight, quantise_weight
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.graphs.weights import weight_input
from aigc_edge.compress.rounding import Floats

Array = npt.NDArray[Any]
_TYPES: dict[str, Any] = {
    "int8": np.int8,
    "int4": ml_dtypes.int4,
    "fp8": ml_dtypes.float8_e4m3fn,
    "fp4": ml_dtypes.float4_e2m1fn,
    "fp16": np.float16,
}


def _tensor(name: str, value: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value), name)


def per_channel(layer: Layer, codes: Floats, scales: Floats, kind: str) -> Change:
    """Codes in the weight's shape, of type `kind`, with one scale for each index of the layer's axis."""
    # The name has the axis, because tied weights are read along different ones.
    codes_name, scales_name, result = (f"{layer.weight}_{part}{layer.axis}" for part in (f"{kind}_", "scale_", "dq_"))
    tensors = (_tensor(codes_name, codes.astype(_TYPES[kind])), _tensor(scales_name, scales.astype(np.float32)))
    node = helper.make_node("DequantizeLinear", [codes_name, scales_name], [result], name=result, axis=layer.axis)
    return Change(tensors, (node,), {weight_input(layer): result})


def blocked(
    layer: Layer, codes: Floats, scales: Floats, kind: str, shape: tuple[int, ...], tensor_scale: np.float32 | None = None
) -> Change:
    """Codes [outputs, inputs] of type `kind` with scales [outputs, blocks]; `shape` is that of the weight.

    With a `tensor_scale` (NVFP4), the scales are stored in E4M3 in units of it.
    """
    names = {part: f"{layer.weight}_{part}" for part in (kind, "scale", "scale_dq", "tensor_scale", "shape", "flat", "dq")}
    upright = layer.axis == 0 and layer.op != "ConvTranspose"
    axis = 1 if upright else 0
    if not upright:
        codes, scales = codes.T, scales.T
    before = []
    tensors = [_tensor(names[kind], codes.astype(_TYPES[kind]))]
    if tensor_scale is None:
        tensors.append(_tensor(names["scale"], scales.astype(np.float32)))
        scale = names["scale"]
    else:
        tensors.append(_tensor(names["scale"], (scales / tensor_scale).astype(_TYPES["fp8"])))
        tensors.append(_tensor(names["tensor_scale"], np.asarray(tensor_scale, np.float32)))
        scale = names["scale_dq"]
        before.append(helper.make_node("DequantizeLinear", [names["scale"], names["tensor_scale"]], [scale], name=scale))
    block = codes.shape[axis] // scales.shape[axis]
    flat = codes.shape == shape
    result = names["dq"] if flat else names["flat"]
    inputs = [names[kind], scale]
    before.append(helper.make_node("DequantizeLinear", inputs, [result], name=result, axis=axis, block_size=block))
    if not flat:
        tensors.append(_tensor(names["shape"], np.array(shape, np.int64)))
        before.append(helper.make_node("Reshape", [result, names["shape"]], [names["dq"]], name=names["dq"]))
    return Change(tuple(tensors), tuple(before), {weight_input(layer): names["dq"]})


def halved(layer: Layer, weight: Array) -> Change:
    """The weight in half precision, cast to float32 in front of its node."""
    stored, result = f"{layer.weight}_half", f"{layer.weight}_dq"
    node = helper.make_node("Cast", [stored], [result], name=result, to=onnx.TensorProto.FLOAT)
    return Change((_tensor(stored, weight.astype(np.float16)),), (node,), {weight_input(layer): result})


def int8_channels(layer: Layer, weight: Array) -> Change:
    """int8 with one scale per channel, for layers and embedding tables that 4-bit formats do not hold."""
    integers, scales = quantise_weight(weight, layer.axis)
    return per_channel(layer, integers.astype(np.float32), scales, "int8")


def master_weights(change: Change, weight: Array) -> dict[str, Floats]:
    """By tensor of integer codes in `change`: the values that they were rounded from (see `qdq.master_weight`)."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in change.tensors}
    masters: dict[str, Floats] = {}
    for node in change.before:
        if node.op_type == "DequantizeLinear" and {*node.input[:2]} <= tensors.keys():
            codes, scale = (tensors[name].astype(np.float32) for name in node.input[:2])
            axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
            masters[node.input[0]] = master_weight(weight, codes, scale, axis, block)
    return masters
