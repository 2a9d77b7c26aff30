"""Survey an ONNX graph: its weights as matrices, and the peak memory of its live activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aigc_edge.preflight.survey import Survey, Weight

if TYPE_CHECKING:
    import onnx

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # share the memory of their input


def survey(component: str, model: onnx.ModelProto) -> Survey:
    """The survey, for one sample, of a graph whose only dynamic size is the batch."""
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
    """Peak bytes of live float32 activations when nodes run in order and tensors are freed after their last use."""
    last_use = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    now, peak, live = 0, 0, dict[str, int]()
    for index, node in enumerate(model.graph.node):
        is_view = node.op_type in _VIEWS
        for name in node.output:
            live[name] = 0 if is_view else 4 * elements.get(name, 0)
            now += live[name]
        peak = max(peak, now)
        for name in {*node.input, *node.output}:
            if name in live and last_use.get(name, -1) <= index and name not in constants:
                now -= live.pop(name)
    return peak
