"""Rules of the operators that move, cut, join and resample values."""

from __future__ import annotations

import numpy as np
import onnx

from aigc_edge.compress.channels.labels import Ints
from aigc_edge.compress.channels.tracing import Axis, ChannelTrace, passage, rule
from aigc_edge.compress.graphs.graph import attribute


@passage("Reshape", "Flatten")
def _reshape(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    """Channels pass where their axis begins at the same place: alone, in groups, or together with axes behind them."""
    old, new = state.shape(node.input[0]), state.shape(node.output[0])
    operand = node.input[1] if node.op_type == "Reshape" else ""
    if 0 in old[1:] or 0 in new[1:] or not new or (operand and operand not in state.constants and operand not in state.sizes_of):
        return None
    before = state.product(old[: tracked.axis])
    places = [axis for axis in range(len(new)) if state.product(new[:axis]) == before and new[axis] > 1]
    count = len(tracked.labels)
    if not places or (new[places[-1]] % count and count % new[places[-1]]):
        return None
    axis = places[-1]
    labels = _regrouped(state, tracked.labels, new[axis])
    if operand in state.sizes_of:
        other = state.sizes_of[operand]
        if other.axis != axis or len(other.labels) != len(labels):
            return None
        state.labels.join(other.labels, labels)
    elif operand and state.constants[operand][axis] > 0:
        state.labels.place("size", index, 1, axis, labels)
    elif operand and state.constants[operand][axis] == 0 and axis != tracked.axis:
        return None
    return Axis(axis, labels)


def _regrouped(state: ChannelTrace, labels: Ints, size: int) -> Ints:
    """Labels of an axis of `size` that holds those of `labels` in groups, or each of them several times."""
    if size >= len(labels):
        return labels.repeat(size // len(labels))
    groups = labels.reshape(size, -1)
    for other in range(1, groups.shape[1]):
        state.labels.join(groups[:, other], groups[:, 0])
    return groups[:, 0]


@rule("Shape")
def _shape(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    tracked = state.axes.get(node.input[0])
    if tracked is None:
        return
    rank = len(state.shape(node.input[0]))
    first, last = attribute(node, "start", 0), attribute(node, "end", rank)
    if tracked.axis not in range(rank)[slice(first, last)]:
        return
    readers = [
        (other, place) for other in state.model.graph.node for place, name in enumerate(other.input) if name == node.output[0]
    ]
    if (first, last) == (0, rank) and all(other.op_type == "Reshape" and place == 1 for other, place in readers):
        state.sizes_of[node.output[0]] = tracked
    else:
        state.freeze(node.input[0])


@passage("Transpose")
def _transpose(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis:
    order = list(attribute(node, "perm", range(len(state.shape(node.input[0])))[::-1]))
    return Axis(order.index(tracked.axis), tracked.labels)


@passage("Unsqueeze", "Squeeze")
def _squeeze(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    wide = state.shape(node.output[0] if node.op_type == "Unsqueeze" else node.input[0])
    if len(node.input) < 2 or node.input[1] not in state.constants or not wide:
        return None
    special = {int(axis) % len(wide) for axis in state.constants[node.input[1]].ravel()}
    others = [axis for axis in range(len(wide)) if axis not in special]
    if node.op_type == "Unsqueeze":
        return Axis(others[tracked.axis], tracked.labels)
    return None if tracked.axis in special else Axis(others.index(tracked.axis), tracked.labels)


@rule("Concat")
def _concat(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    tracked = [name for name in node.input if name in state.axes]
    if not tracked:
        return
    out = state.shape(node.output[0])
    over = attribute(node, "axis", 0) % max(len(out), 1)
    known = all(name in state.axes or (state.shape(name) and state.shape(name)[over]) for name in node.input)
    if not out or not known or any(state.axes[name].axis != over for name in tracked):
        state.freeze(*tracked)
        return
    parts = []
    for name in node.input:
        if name in state.axes:
            parts.append(state.axes[name].labels)
        else:  # another branch, whole
            parts.append(state.labels.new(state.shape(name)[over]))
            state.labels.freeze(parts[-1])
    state.axes[node.output[0]] = Axis(over, np.concatenate(parts))


@rule("Split")
def _split(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    tracked = state.axes.get(node.input[0])
    if tracked is None:
        return
    over = attribute(node, "axis", 0) % len(state.shape(node.input[0]))
    if over != tracked.axis:
        state.axes |= dict.fromkeys(node.output, tracked)
        return
    operand = node.input[1] if len(node.input) > 1 else ""
    count, parts = len(tracked.labels), len(node.output)
    if operand and operand in state.constants:
        sizes = state.constants[operand].tolist()
    elif not operand and count % parts == 0:
        sizes = [count // parts] * parts
    else:
        state.freeze(node.input[0])
        return
    starts = np.cumsum([0, *sizes])
    state.labels.place("split", index, 1, 0, tracked.labels, starts[:-1].tolist())
    for name, first, last in zip(node.output, starts[:-1], starts[1:], strict=True):
        state.axes[name] = Axis(over, tracked.labels[first:last])


@passage("Slice")
def _slice_(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    rank, count = len(state.shape(node.input[0])), len(tracked.labels)
    values = [state.constants.get(name) for name in node.input[1:]]
    if len(values) < 3 or any(value is None for value in values):
        return None
    starts, ends, axes, steps = [value.ravel().tolist() for value in values if value is not None] + [[1]] * (4 - len(values))
    over = [axis % rank for axis in axes]
    if tracked.axis not in over:
        return tracked
    which = over.index(tracked.axis)
    if (steps * len(over))[which] != 1:
        return None
    first, last, _ = slice(starts[which], ends[which]).indices(count)
    state.labels.place("slice", index, 1, which, tracked.labels, (first, last))
    return Axis(tracked.axis, tracked.labels[first:last])


@passage("Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "Upsample")
def _resample(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    if tracked.axis != 1:
        return None
    if node.op_type == "Resize":
        factors = state.constants.get(node.input[2]) if len(node.input) == 3 else None
        if factors is None or factors.size < 2 or factors[1] != 1 or attribute(node, "axes", None):
            return None
    return tracked


@passage("ReduceMean", "ReduceSum", "ReduceMax")
def _reduce(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis | None:
    axes = state.constants.get(node.input[1]) if len(node.input) > 1 else None
    rank = len(state.shape(node.input[0]))
    mixed = axes is None or not attribute(node, "keepdims", 1) or tracked.axis in [int(a) % rank for a in axes.ravel()]
    return None if mixed else tracked
