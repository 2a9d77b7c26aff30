"""Rewrites transposed convolutions as convolutions with DepthToSpace: the same sums, in operators that engines have in int8.

An output pixel of a transposed convolution with stride s sees every s-th tap of the kernel, so its s² phases are s² ordinary
convolutions with kernels s times smaller; they are the channels of one convolution, and DepthToSpace interleaves them
(Shi et al. 2016, arXiv 1609.07009). The number of multiply-adds stays the same except at the border.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.graphs.graph import attribute, initialisers, readers, types_and_shapes
from aigc_edge.compress.graphs.replacement import Replacement, replaced
from aigc_edge.compress.graphs.rewrite import copied

_POINTWISE = ("Relu", "LeakyRelu", "Tanh", "Sigmoid")  # without other inputs: they commute with DepthToSpace


def as_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with its two-dimensional transposed convolutions rewritten.

    Those with groups, dilation, unequal strides, computed weights or padding larger than the kernel are left unchanged.
    """
    constants, known, reading = initialisers(model), types_and_shapes(model), readers(model)
    parts: dict[str, Replacement] = {}
    dropped: list[str] = []
    for node in model.graph.node:
        if node.op_type != "ConvTranspose" or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        bias = constants.get(node.input[2]) if len(node.input) > 2 else np.zeros(weight.shape[1], np.float32)
        if weight.ndim != 4 or bias is None:
            continue
        sizes = known[node.input[0]][1][2:] if node.input[0] in known else [0, 0]
        following = reading.get(node.output[0], [])
        last = following[0] if len(following) == 1 and following[0].op_type in _POINTWISE else None
        part = _part(node, last, weight, bias, sizes)
        if part is not None:
            parts[part.name] = part
            dropped += [node.output[0]] if last is not None else []
    return replaced(model, parts, dropped) if parts else model


def _part(
    node: onnx.NodeProto,
    last: onnx.NodeProto | None,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    sizes: list[int],
) -> Replacement | None:
    """What replaces `node` [C, K, h, w] and the pointwise node `last` behind it; None where it cannot be replaced."""
    strides, pads = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0, 0, 0, 0])
    plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET" and not attribute(node, "output_shape", [])
    if not plain or attribute(node, "group", 1) != 1 or set(attribute(node, "dilations", [1, 1])) != {1}:
        return None
    extra = attribute(node, "output_padding", [0, 0])
    if list(sizes) == [1, 1] and weight.shape[2] == weight.shape[3] and not any(extra):
        strides = list(weight.shape[2:])  # of a single pixel: any stride is equivalent, and this one gives a 1 × 1 convolution
    if strides[0] != strides[1]:
        return None
    stride = int(strides[0])
    taps = [-(-size // stride) for size in weight.shape[2:]]
    spare = [taps[i] * stride - weight.shape[2 + i] for i in (0, 1)]  # zero taps that pad the kernel to a multiple
    trailing = [pads[2 + i] + spare[i] - extra[i] for i in (0, 1)]
    if min(*trailing, *pads[:2]) < 0:
        return None
    name = (last or node).output[0]
    part = Replacement(name)
    weight_name = f"{node.input[1].removesuffix('.weight')}.phases.{name}.weight"  # layers are named after their weights
    part.constants[weight_name] = _phases(weight, stride, taps, spare)
    border = [taps[0] - 1, taps[1] - 1]
    inputs = [node.input[0], weight_name, part.constant("bias", np.tile(bias, stride**2))]
    value = part.add("Conv", inputs, "conv", kernel_shape=taps, pads=[*border, *border], strides=[1, 1])
    if last is not None:
        part.nodes.append(copied(last))
        part.nodes[-1].input[0], value = value, f"{name}_act"
        part.nodes[-1].output[0] = value
    if stride > 1:
        value = part.add("DepthToSpace", [value], "shuffled", blocksize=stride, mode="DCR")
    if any((*pads[:2], *trailing)):
        starts = part.constant("starts", pads[:2], np.int64)
        stops = part.constant("stops", [-end if end else np.iinfo(np.int64).max for end in trailing], np.int64)
        part.add("Slice", [value, starts, stops, part.constant("axes", [2, 3], np.int64)], "crop")
    part.nodes[-1].output[0] = name
    return part


def _phases(weight: npt.NDArray[np.float32], stride: int, taps: list[int], spare: list[int]) -> npt.NDArray[np.float32]:
    """[C, K, h, w] → [s² K, C, h / s, w / s]: channel (y s + x) K + k makes the pixels at (y, x) of each s × s block."""
    inputs, outputs = weight.shape[:2]
    filled = np.pad(weight, ((0, 0), (0, 0), (0, spare[0]), (0, spare[1])))
    split = filled.reshape(inputs, outputs, taps[0], stride, taps[1], stride)[:, :, ::-1, :, ::-1]
    phases = split.transpose(3, 5, 1, 0, 2, 4).reshape(stride**2 * outputs, inputs, *taps)
    return np.ascontiguousarray(phases)
