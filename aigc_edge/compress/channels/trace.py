"""Traces the channels of a whole network, by the rules of its operators."""

from __future__ import annotations

import onnx

from aigc_edge.compress.channels import layers, moves, pointwise  # noqa: F401  they register the rules
from aigc_edge.compress.channels.tracing import RULES, ChannelTrace
from aigc_edge.compress.graphs.graph import reads


def trace(model: onnx.ModelProto) -> ChannelTrace:
    """Follow all channels of `model`; those that reach an operator without a rule, or an output, are frozen."""
    state = ChannelTrace(model)
    for index, node in enumerate(model.graph.node):
        rule = RULES.get(node.op_type)
        if rule is None:
            state.freeze(*reads(node))
        else:
            rule(state, index, node)
    state.freeze(*(value.name for value in model.graph.output))
    return state
