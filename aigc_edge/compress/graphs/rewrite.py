"""Applies changes of layers to a copy of a graph: other weights, nodes in front of a layer and nodes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper

from aigc_edge.compress.graphs.graph import bodies, inner_nodes, reads


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

    Of a node in a body, the weight is replaced: the nodes in front of it are in the graph itself, and bodies read their result.
    """
    nodes: list[onnx.NodeProto] = []
    tensors = {name: numpy_helper.from_array(value, name) for name, value in (constants or {}).items()}
    weights = {tensor.name for tensor in model.graph.initializer}
    stored: dict[str, str] = {}  # weight → what replaces it
    there: set[str] = set()
    for node in model.graph.node:
        change = changes.get(node.output[0]) if node.output else None
        if change is None:
            nodes.append(node)
            continue
        copy = copied(node)
        for place, name in change.inputs.items():
            copy.input[place] = stored.setdefault(node.input[place], name) if node.input[place] in weights else name
        if change.output:
            copy.output[0] = change.output
        for extra in change.before:
            if extra.output[0] not in there:
                there.add(extra.output[0])
                nodes.append(extra)
        nodes += [copy, *change.after]
        tensors |= {tensor.name: tensor for tensor in change.tensors}
    for node in inner_nodes(model.graph):
        change = changes.get(node.output[0]) if node.output else None
        if change is None:
            continue
        for place, name in change.inputs.items():
            stored.setdefault(node.input[place], name)
        nodes += [extra for extra in change.before if extra.output[0] not in there]
        there.update(extra.output[0] for extra in change.before)
        tensors |= {tensor.name: tensor for tensor in change.tensors}
    return assembled(model, read_stored(nodes, stored), tensors.values())


def read_stored(nodes: Sequence[onnx.NodeProto], stored: Mapping[str, str]) -> list[onnx.NodeProto]:
    """`nodes` whose other readers of a weight (a key) take the dequantised tensor that replaces it, so that it is stored once.

    The nodes that compute such a tensor come first. A tensor that only one layer reads stays in front of that layer.
    """
    read = {name for node in nodes for name in reads(node)}
    again = {weight: name for weight, name in stored.items() if weight in read}
    producers = {node.output[0]: node for node in nodes if node.output and node.output[0] not in stored}
    first: dict[str, onnx.NodeProto] = {}

    def add(name: str) -> None:
        if name in producers and name not in first:
            for source in producers[name].input:
                add(source)
            first[name] = producers[name]

    for name in again.values():
        add(name)
    rest = [node for node in nodes if not node.output or node.output[0] not in first]
    return [*first.values(), *(renamed(node, again) if again else node for node in rest)]


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of `node` that reads other tensors, in its bodies too."""
    copy = copied(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    for body in bodies(copy):
        inner = [renamed(each, names) for each in body.node]
        del body.node[:]
        body.node.extend(inner)
        for value in body.output:
            value.name = names.get(value.name, value.name)
    return copy


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of `node`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def assembled(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    constants: Iterable[onnx.TensorProto] = (),
    *,
    retyped: bool = False,
) -> onnx.ModelProto:
    """A copy of `model` with these nodes instead of its own, and further constants or others of the same name.

    Constants and nodes without readers are left out, and so are inferred types and shapes of values that are no longer computed,
    or all of them if types or sizes have changed (`retyped`).
    """
    read = {value.name for value in model.graph.output}
    needed = []
    for node in reversed(nodes):
        if not read.isdisjoint(node.output):
            needed.append(node)
            read.update(reads(node))
    result = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        metadata_props=model.metadata_props,
    )
    graph = result.graph
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.node.extend(reversed(needed))
    computed = {name for node in needed for name in node.output}
    if not retyped:
        graph.value_info.extend(value for value in model.graph.value_info if value.name in computed)
    graph.initializer.extend(tensor for tensor in constants if tensor.name in read)
    kept = read - computed - {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in kept)
    return result
