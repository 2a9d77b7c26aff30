"""The first and last layers of a network: the most sensitive ones, which see the sample itself and cost next to nothing.

No normalisation follows their inputs or outputs. On a DiT-S/2 (random weights) they caused more than half of the squared error
with less than a thousandth of the multiply-adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx

from aigc_edge.compress.graphs.graph import Layer

SHARE = 1 / 250  # of the multiply-adds, at most, for a layer to be left in float
READERS = 2  # first layers per input: a text condition is read by keys and values of every block


def without_first_and_last(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[Layer]:
    """`layers` without cheap ones next to the inputs and outputs of the graph.

    Between them and the input or output there are only operators with one computed input: reshapes, activations, biases.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = {layer.node for layer in layers}
    total = sum(layer.macs for layer in layers)
    near = {value.name: value.name for value in model.graph.input}  # value → the input that it is computed from
    for node in model.graph.node:
        computed = [name for name in node.input if name and name not in constants]
        if node.output[0] not in nodes and len(computed) == 1 and computed[0] in near:
            near.update(dict.fromkeys(node.output, near[computed[0]]))
    readers = Counter(near[layer.input] for layer in layers if layer.input in near)
    first = {layer.node for layer in layers if layer.input in near and readers[near[layer.input]] <= READERS}
    far = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        computed = [name for name in node.input if name and name not in constants]
        if node.output[0] not in nodes and len(computed) == 1 and far & {*node.output}:
            far.update(computed)
    kept = [layer for layer in layers if layer.macs > SHARE * total or not (layer.node in first or layer.node in far)]
    return kept or list(layers)
