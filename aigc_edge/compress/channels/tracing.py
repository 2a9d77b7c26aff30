"""The state of tracing channels through a graph, from the layers that produce them to those that read them.

Channels that an operator may mix are frozen, as are those that a sum of two branches or an output of the network needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from aigc_edge.compress.channels.labels import Ints, Labels
from aigc_edge.compress.graphs import graph

BATCH = 1_000_003  # represents a dynamic size in products of sizes: a prime that no network has


@dataclass(frozen=True)
class Axis:
    """The channel axis of a tensor, and the labels of its channels."""

    axis: int
    labels: Ints


class ChannelTrace:
    """What is known of every tensor while a graph is traced; sizes that are not known are 0."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.labels = Labels()
        self.constants = graph.initialisers(model)
        self.types = graph.at_default_size(model)
        self.inputs = {value.name for value in model.graph.input} - set(self.constants)
        self.readers = {name: len(nodes) for name, nodes in graph.readers(model).items()}
        self.axes: dict[str, Axis] = {}
        self.sizes_of: dict[str, Axis] = {}  # the shape of a tensor with channels, as a tensor

    def shape(self, name: str) -> list[int]:
        """Sizes of the tensor; [] when unknown (or for a scalar)."""
        return self.types[name][1] if name in self.types else []

    def product(self, sizes: list[int]) -> int:
        """Product of sizes, of which the first may be the batch."""
        return int(np.prod([size or BATCH for size in sizes], dtype=object))

    def freeze(self, *names: str) -> None:
        """Exclude the channels of these tensors from pruning."""
        for name in names:
            if name in self.axes:
                self.labels.freeze(self.axes[name].labels)

    def is_float(self, name: str) -> bool:
        return name in self.types and self.types[name][0] == TensorProto.FLOAT


Rule = Callable[[ChannelTrace, int, onnx.NodeProto], None]
Passage = Callable[[ChannelTrace, int, onnx.NodeProto, Axis], Axis | None]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Decorator for the rule by which channels pass these operators."""

    def store(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return store


def passage(*operators: str) -> Callable[[Passage], Passage]:
    """Decorator for the rule that returns the channel axis of the output from that of the first input; None freezes it."""

    def store(function: Passage) -> Passage:
        @rule(*operators)
        def apply(state: ChannelTrace, index: int, node: onnx.NodeProto) -> None:
            tracked = state.axes.get(node.input[0])
            passed = function(state, index, node, tracked) if tracked is not None else None
            if passed is None:
                state.freeze(node.input[0])
            else:
                state.axes[node.output[0]] = passed

        return function

    return store


def kept(labels: Labels, of: Ints, removed: set[int]) -> npt.NDArray[np.bool_]:
    """Which of the channels `of` are not among the roots `removed`."""
    return np.array([root not in removed for root in labels.roots(of).tolist()], bool)
