"""Applies changes of layers to a copy of a graph: other weights, nodes in front of a layer and nodes behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper


@dataclass(frozen=True)
class Change:
    """The change of one node: new constants, nodes in front of it, other inputs by index, nodes behind it.

    With nodes behind it, the node's output is renamed to `output`, and the last of them produces the original tensor. A constant
    or node (by its first output) that exists already belongs to another layer with the same weight, and is shared.
    """

    tensors: tuple[onnx.TensorProto, ...] = ()
    before: tuple[onnx.NodeProto, ...] = ()
    inputs: Mapping[int, str] = field(default_factory=dict)
    after: tuple[onnx.NodeProto, ...] = ()
    output: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of the constants in the file."""
        return sum(len(tensor.raw_data) for tensor in self.tensors)


def rewritten(
    model: onnx.ModelProto, changes: Mapping[str, Change], constants: Mapping[str, npt.NDArray[Any]] | None = None
) -> onnx.ModelProto:
    """A copy of `model` with `changes` to nodes (by their first output) and other values for some of its constants.

    Constants without readers are left out.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, onnx.TensorProto] = {}
    there: set[str] = set()
    for node in model.graph.node:
        change = changes.get(node.output[0]) if node.output else None
        if change is None:
            nodes.append(node)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in change.inputs.items():
            copy.input[place] = name
        if change.output:
            copy.output[0] = change.output
        for extra in change.before:
            if extra.output[0] not in there:
                there.add(extra.output[0])
                nodes.append(extra)
        nodes += [copy, *change.after]
        tensors |= {tensor.name: tensor for tensor in change.tensors}
    read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    result = shell_of(model)
    result.graph.node.extend(nodes)
    values = constants or {}
    for tensor in model.graph.initializer:
        if tensor.name in read and tensor.name not in values:
            result.graph.initializer.append(tensor)
    result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items() if name in read)
    result.graph.initializer.extend(tensors.values())
    return result


def shell_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its nodes and constants."""
    shell = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        metadata_props=model.metadata_props,
    )
    shell.graph.name = model.graph.name
    for name in ("input", "output", "value_info"):
        getattr(shell.graph, name).extend(getattr(model.graph, name))
    return shell
