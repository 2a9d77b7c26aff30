"""Rules of the operators that work element by element."""

from __future__ import annotations

import onnx

from aigc_edge.compress.channels.tracing import Axis, ChannelTrace, passage, rule

# fmt: off
UNARY = (
    "Abs", "Cast", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Reciprocal",
    "Relu", "Sigmoid", "Softplus", "Sqrt", "Swish", "Tanh",
)
# fmt: on


@passage(*UNARY)
def _one(state: ChannelTrace, index: int, node: onnx.NodeProto, tracked: Axis) -> Axis:
    return tracked


@rule("Add", "Clip", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Where")
def _several(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
    """Operands broadcast: what has the size 1 along the channels concerns them all, the others are cut with them.

    A sum of two tensors of one shape is a residual connection (or joins two embeddings): both sides stay.
    """
    names = [name for name in node.input if name]
    tracked = [name for name in names if name in state.axes]
    if not tracked:
        return
    rank = max(len(state.shape(name)) for name in names)
    if any(not state.shape(name) for name in tracked):
        state.freeze(*tracked)
        return
    axis = state.axes[tracked[0]].axis + rank - len(state.shape(tracked[0]))
    labels = state.axes[tracked[0]].labels
    for name in tracked[1:]:
        other = state.axes[name]
        if other.axis + rank - len(state.shape(name)) != axis or len(other.labels) != len(labels):
            state.freeze(*tracked)
            return
    sites = []
    for place, name in enumerate(node.input):
        if not name or name in state.axes:
            continue
        shape = state.shape(name)
        own = axis - (rank - len(shape))
        if own < 0 or shape[own] == 1:
            continue
        outside = name in state.inputs and state.is_float(name)
        if shape[own] != len(labels) or not (name in state.constants or outside):
            state.freeze(*tracked)
            return
        sites.append(("gather" if outside else "constant", place, own))
    for kind, place, own in sites:
        state.labels.place(kind, index, place, own, labels)
    for name in tracked[1:]:
        other = state.axes[name]
        same = (state.labels.roots(other.labels) == state.labels.roots(labels)).all()
        if not same and node.op_type in ("Add", "Sub") and _full(state, name) == _full(state, tracked[0]):
            state.freeze(*tracked)
        state.labels.join(other.labels, labels)
    state.axes[node.output[0]] = Axis(axis, labels)


def _full(state: ChannelTrace, name: str) -> bool:
    """Whether the tensor has more than one value for each channel and sample."""
    return any(size != 1 for axis, size in enumerate(state.shape(name)) if axis not in (0, state.axes[name].axis))
