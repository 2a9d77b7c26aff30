"""Replaces nodes of an ONNX graph by others: shared by the passes that adapt a graph for an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.graphs.rewrite import shell_of


class Replacement:
    """Nodes that replace another node, with the constants that they read; all names begin with that of its output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}

    def constant(self, suffix: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant and return its name."""
        self.constants[f"{self.name}_{suffix}"] = np.asarray(value, dtype)
        return f"{self.name}_{suffix}"

    def add(self, op: str, inputs: Sequence[str], suffix: str | None, **attributes: Any) -> str:
        """Add a node and return its output; without a suffix, the output of the node that is replaced."""
        output = self.name if suffix is None else f"{self.name}_{suffix}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}_{op}", **attributes))
        return output


def replaced(model: onnx.ModelProto, parts: Mapping[str, Replacement], dropped: Sequence[str] = ()) -> onnx.ModelProto:
    """A copy of `model` with each node whose output is a key of `parts` replaced, and those with an output in `dropped` removed.

    Constants without readers are removed too.
    """
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in parts:
            nodes.extend(parts[node.output[0]].nodes)
        elif node.output[0] not in dropped:
            nodes.append(node)
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    produced = {name for node in nodes for name in node.output}
    result = shell_of(model)
    del result.graph.value_info[:]
    result.graph.value_info.extend(value for value in graph.value_info if value.name in produced)
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    for part in parts.values():
        result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in part.constants.items())
    return result


def readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor; outputs of the graph have an empty node as an additional reader."""
    reading: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            reading.setdefault(name, []).append(node)
    for value in model.graph.output:
        reading.setdefault(value.name, []).append(onnx.NodeProto())
    return reading
