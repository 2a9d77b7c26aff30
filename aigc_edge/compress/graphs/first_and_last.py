"""The first and last layers of a network: the most sensitive ones, which see the sample itself and cost next to nothing.

No normalisation follows their inputs or outputs. On a DiT-S/2 (random weights) they caused more than half of the squared error
with less than a thousandth of the multiply-adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx

from aigc_edge.compress.graphs.graph import Layer, reads

SHARE = 1 / 250  # of the multiply-adds, at most, for a layer to be left in float
READERS = 2  # first layers per input: a text condition is read by keys and values of every block


def without_first_and_last(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[Layer]:
    """`layers` without cheap ones next to the inputs and outputs of the graph.

    Between them and the input or output there are only operators whose other operands no layer computed: reshapes, activations,
    biases, and the scaling by functions of the noise level around a preconditioned network (Karras et al. 2022, EDM).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = {layer.node for layer in layers}
    total = sum(layer.macs for layer in layers)
    near = {value.name: frozenset({value.name}) for value in model.graph.input}  # value → the inputs that it is computed from
    for node in model.graph.node:
        computed = [name for name in reads(node) if name and name not in constants]
        if node.output[0] not in nodes and all(name in near for name in computed):
            near.update(dict.fromkeys(node.output, frozenset[str]().union(*(near[name] for name in computed))))
    readers = Counter(near[layer.input] for layer in layers if near.get(layer.input))
    first = {layer.node for layer in layers if 0 < readers[near.get(layer.input, frozenset())] <= READERS}
    far = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        computed = [name for name in reads(node) if name and name not in constants and name not in near]
        if node.output[0] not in nodes and len(computed) == 1 and far & {*node.output}:
            far.update(computed)
    kept = [layer for layer in layers if layer.macs > SHARE * total or not (layer.node in first or layer.node in far)]
    return kept or list(layers)
