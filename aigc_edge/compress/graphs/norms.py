"""Group normalisation that keeps the channels-last layout, for engines that would otherwise reorder a map twice per norm.

A group's mean is that of its channels' means, and so is its mean square; with both the norm is one multiplication and an addition
a channel, in any layout. The means of groups are taken by a 1 × 1 convolution with groups, because that keeps the layout too.
"""

from __future__ import annotations

import numpy as np
import onnx

from aigc_edge.compress.graphs.graph import attribute, initialisers, readers, types_and_shapes
from aigc_edge.compress.graphs.replacement import Replacement, replaced

MEANS = "means of groups"  # suffix of the names of weights that are not to be quantised


def without_reshape(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with every group norm of [N, C, H, W], exported as an instance norm between reshapes, rewritten.

    The variance is E[x²] − E[x]²: where a group's mean is far larger than its deviation, that loses digits that int8 lacks.
    """
    constants, known, reading = initialisers(model), types_and_shapes(model), readers(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    parts: dict[str, Replacement] = {}
    dropped: list[str] = []
    for node in model.graph.node:
        if node.op_type != "InstanceNormalization" or not {*node.input[1:]} <= constants.keys():
            continue
        before, after = makers.get(node.input[0]), reading.get(node.output[0], [])
        if before is None or before.op_type != "Reshape" or len(after) != 1 or after[0].op_type != "Reshape":
            continue
        name, source = after[0].output[0], before.input[0]
        shape = known[name][1] if name in known else []
        groups = len(constants[node.input[1]])
        trivial = (constants[node.input[1]] == 1).all() and (constants[node.input[2]] == 0).all()
        if len(shape) != 4 or known.get(source, (0, []))[1][1:] != shape[1:] or not shape[1] or not trivial:
            continue
        if 0 in shape[2:] and not _is_shape_of(makers.get(after[0].input[1]), source):
            continue  # sizes that are not known could be others
        if list(constants.get(before.input[1], [])) != [0, groups, -1] or len(reading[before.output[0]]) != 1:
            continue
        parts[name] = _part(name, source, shape, groups, attribute(node, "epsilon", 1e-5))
        dropped += [before.output[0], node.output[0]]
    return replaced(model, parts, dropped) if parts else model


def _is_shape_of(node: onnx.NodeProto | None, source: str) -> bool:
    if node is None or node.op_type != "Shape" or list(node.input) != [source]:
        return False
    return attribute(node, "start", 0) == 0 and attribute(node, "end", None) is None


def _pixel(part: Replacement, source: str) -> str:
    """One over the number of pixels of a map whose size is known at run time only."""
    sides = part.add("Shape", [source], "sides", start=2)
    count = part.add("Cast", [part.add("ReduceProd", [sides], "count", keepdims=0)], "pixels", to=onnx.TensorProto.FLOAT)
    return part.add("Reciprocal", [count], "pixel")


def _part(name: str, source: str, shape: list[int], groups: int, epsilon: float) -> Replacement:
    part = Replacement(name)
    channels, size = shape[1], shape[1] // groups
    axes = part.constant("axes", [2, 3], np.int64)
    spread = part.constant(MEANS, np.full((channels, size, 1, 1), 1 / size))
    mean = part.add("ReduceMean", [source, axes], "means", keepdims=1)
    mean = part.add("Conv", [mean, spread], "mean", group=groups, kernel_shape=[1, 1])
    length = part.add("ReduceL2", [source, axes], "lengths", keepdims=1)
    pixel = _pixel(part, source) if 0 in shape[2:] else part.constant("pixel", 1 / (shape[2] * shape[3]))
    square = part.add("Mul", [part.add("Mul", [length, length], "sums"), pixel], "squares")
    square = part.add("Conv", [square, spread], "square", group=groups, kernel_shape=[1, 1])
    variance = part.add("Sub", [square, part.add("Mul", [mean, mean], "mean2")], "difference")
    variance = part.add("Add", [part.add("Relu", [variance], "variance"), part.constant("epsilon", epsilon)], "positive")
    factor = part.add("Div", [part.constant("one", 1), part.add("Sqrt", [variance], "deviation")], "factor")
    shift = part.add("Neg", [part.add("Mul", [mean, factor], "product")], "shift")
    part.add("Add", [part.add("Mul", [source, factor], "scaled"), shift], None)
    return part
