"""Surveys an ONNX graph: the weights of its products, and the activations that live at the same time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aigc_edge.preflight.survey import Survey, Weight

if TYPE_CHECKING:
    import onnx

_MOVES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # share the memory of their input


def survey(component: str, model: onnx.ModelProto) -> Survey:
    """The survey of a graph whose only dynamic size is the batch, for one sample."""
    from aigc_edge.compress.graphs.graph import at_default_size
    from aigc_edge.compress.graphs.weights import weights_of

    known = at_default_size(model)
    elements = {name: math.prod(size or 1 for size in shape) for name, (_, shape) in known.items()}
    constants = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    weights = []
    for layer in weights_of(model):
        shape = known[layer.weight][1]
        outputs = shape[layer.axis]
        weights.append(Weight(layer.name, layer.op, outputs, math.prod(shape) // max(outputs, 1), layer.macs))
    names = {layer.weight for layer in weights_of(model)}
    others = sum(size for name, size in constants.items() if name not in names)
    products = sum(_product(node, known, elements) for node in model.graph.node if not set(node.input) & set(constants))
    return Survey(component, tuple(weights), others, products, _peak(model, elements, constants), len(model.graph.node))


def _product(node: onnx.NodeProto, known: dict[str, tuple[int, list[int]]], elements: dict[str, int]) -> int:
    if node.op_type != "MatMul" or node.input[0] not in known:
        return 0
    return elements.get(node.output[0], 0) * (known[node.input[0]][1][-1] or 1)


def _peak(model: onnx.ModelProto, elements: dict[str, int], constants: dict[str, int]) -> int:
    """Bytes of float32 activations that live at once when nodes run in order and tensors go after their last reader."""
    last = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    now, peak, held = 0, 0, dict[str, int]()
    for index, node in enumerate(model.graph.node):
        moves = node.op_type in _MOVES
        for name in node.output:
            held[name] = 0 if moves else 4 * elements.get(name, 0)
            now += held[name]
        peak = max(peak, now)
        for name in {*node.input, *node.output}:
            if name in held and last.get(name, -1) <= index and name not in constants:
                now -= held.pop(name)
    return peak
