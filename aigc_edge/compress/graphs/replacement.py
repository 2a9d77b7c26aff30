"""Replaces nodes of an ONNX graph by others: shared by the passes that adapt a graph for an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.graphs.rewrite import assembled


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
    """A copy of `model` with the nodes whose output is a key of `parts` replaced, and those with one in `dropped` removed."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in parts:
            nodes.extend(parts[node.output[0]].nodes)
        elif node.output[0] not in dropped:
            nodes.append(node)
    constants = (numpy_helper.from_array(value, name) for part in parts.values() for name, value in part.constants.items())
    return assembled(model, nodes, constants)
