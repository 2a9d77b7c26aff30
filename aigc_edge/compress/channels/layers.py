"""Rules of the operators with weights, and of the norms."""

from __future__ import annotations

import numpy as np
import onnx

from aigc_edge.compress.channels.tracing import Axis, ChannelTrace, rule
from aigc_edge.compress.graphs.graph import attribute


@rule("Conv", "ConvTranspose", "Gemm", "MatMul")
def _layer(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    weight = state.constants.get(node.input[1])
    convolution = node.op_type.startswith("Conv")
    flat = weight is None or weight.ndim != 2
    if weight is None or weight.dtype != np.float32 or attribute(node, "transA", 0) or (flat and not convolution):
        state.freeze(*node.input)
        return
    groups = attribute(node, "group", 1)
    if groups != 1:
        _depthwise(state, index, node, groups, weight.shape)
        return
    turned = node.op_type == "Conv" or attribute(node, "transB", 0)
    out_axis, in_axis = (0, 1) if turned else (1, 0)
    found = state.axes.get(node.input[0])
    where = 1 if convolution else len(state.shape(node.input[0])) - 1
    labels = state.labels
    if found is not None:
        if found.axis == where and len(found.labels) == weight.shape[in_axis]:
            labels.place("constant", index, 1, in_axis, found.labels)
            labels.consumers[index] = found.labels
        else:
            labels.freeze(found.labels)
    made = labels.new(weight.shape[out_axis])
    labels.place("constant", index, 1, out_axis, made)
    labels.producers[index] = made
    out = state.shape(node.output[0])
    state.axes[node.output[0]] = Axis(1 if convolution else len(out) - 1, made)
    if state.readers[node.input[1]] > 1 or not out:  # a weight that another node reads too
        state.freeze(node.input[0], node.output[0])
    if len(node.input) > 2 and node.input[2]:
        bias = state.constants.get(node.input[2])
        if bias is not None and bias.ndim and bias.shape[-1] == len(made):
            labels.place("constant", index, 2, bias.ndim - 1, made)
        elif bias is None or bias.size != 1:
            state.freeze(node.input[2], node.output[0])


def _depthwise(state: ChannelTrace, index: int, node: onnx.NodeProto, groups: int, shape: tuple[int, ...]) -> None:
    found = state.axes.get(node.input[0])
    if found is None or found.axis != 1 or node.op_type != "Conv" or not groups == len(found.labels) == shape[0]:
        state.freeze(node.input[0])
        return
    state.axes[node.output[0]] = found
    state.labels.place("constant", index, 1, 0, found.labels)
    state.labels.place("group", index, 0, 0, found.labels)
    state.labels.through[index] = found.labels
    if len(node.input) > 2 and node.input[2]:
        state.labels.place("constant", index, 2, 0, found.labels)


@rule("InstanceNormalization", "BatchNormalization")
def _norm(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    """Each index of axis 1 is normalised alone: whole ones can go, and the statistics of the others stay as they are."""
    found = state.axes.get(node.input[0])
    if found is None:
        return
    if found.axis != 1 or any(name not in state.constants for name in node.input[1:]):
        state.freeze(node.input[0])
        return
    state.axes[node.output[0]] = found
    for place in range(1, len(node.input)):
        state.labels.place("constant", index, place, 0, found.labels)


@rule("Softmax", "LogSoftmax")
def _softmax(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    found = state.axes.get(node.input[0])
    if found is not None:
        axis = attribute(node, "axis", -1) % len(state.shape(node.input[0]))
        if axis == found.axis:
            state.freeze(node.input[0])
        else:
            state.axes[node.output[0]] = found
