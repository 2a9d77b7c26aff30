"""Rules of the operators with weights, and of the norms."""

from __future__ import annotations

import numpy as np
import onnx

from aigc_edge.compress.channels.tracing import Axis, ChannelTrace, passage, rule
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
    tracked = state.axes.get(node.input[0])
    where = 1 if convolution else len(state.shape(node.input[0])) - 1
    labels = state.labels
    if tracked is not None:
        if tracked.axis == where and len(tracked.labels) == weight.shape[in_axis]:
            labels.place("constant", index, 1, in_axis, tracked.labels)
            labels.consumers[index] = tracked.labels
        else:
            labels.freeze(tracked.labels)
    produced = labels.new(weight.shape[out_axis])
    labels.place("constant", index, 1, out_axis, produced)
    labels.producers[index] = produced
    out = state.shape(node.output[0])
    state.axes[node.output[0]] = Axis(1 if convolution else len(out) - 1, produced)
    if state.readers[node.input[1]] > 1 or not out:  # a weight that another node reads too
        state.freeze(node.input[0], node.output[0])
    if len(node.input) > 2 and node.input[2]:
        bias = state.constants.get(node.input[2])
        if bias is not None and bias.ndim and bias.shape[-1] == len(produced):
            labels.place("constant", index, 2, bias.ndim - 1, produced)
        elif bias is None or bias.size != 1:
            state.freeze(node.input[2], node.output[0])


def _depthwise(state: ChannelTrace, index: int, node: onnx.NodeProto, groups: int, shape: tuple[int, ...]) -> None:
    tracked = state.axes.get(node.input[0])
    if tracked is None or tracked.axis != 1 or node.op_type != "Conv" or not groups == len(tracked.labels) == shape[0]:
        state.freeze(node.input[0])
        return
    state.axes[node.output[0]] = tracked
    state.labels.place("constant", index, 1, 0, tracked.labels)
    state.labels.place("group", index, 0, 0, tracked.labels)
    state.labels.through[index] = tracked.labels
    if len(node.input) > 2 and node.input[2]:
        state.labels.place("constant", index, 2, 0, tracked.labels)


@passage("InstanceNormalization", "BatchNormalization")
def _norm(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    """Each index of axis 1 is normalised alone: whole channels can be removed without changing the statistics of others."""
    if tracked.axis != 1 or any(name not in state.constants for name in node.input[1:]):
        return None
    for place in range(1, len(node.input)):
        state.labels.place("constant", index, place, 0, tracked.labels)
    return tracked


@passage("Softmax", "LogSoftmax")
def _softmax(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    return None if attribute(node, "axis", -1) % len(state.shape(node.input[0])) == tracked.axis else tracked
