"""A node of a graph as torch operators receive it, and the registry of these operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from torch import Tensor

from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import Registry

# A node and its inputs (None where one is left out) → its output, or all of them.
Operator = Callable[..., Tensor | tuple[Tensor, ...]]
OPERATORS: Registry[Operator] = Registry("ONNX operator", "aigc_edge.compress.trainable.operators")


@dataclass(frozen=True)
class Node:
    """Operator, attributes (bytes as text), names of inputs and outputs, and the opset."""

    op: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, or `default`."""
        return self.attributes.get(name, default)

    def unsupported(self, what: str) -> AigcEdgeError:
        """The error for an unsupported variant of the operator."""
        return AigcEdgeError(f"{self.op} {self.outputs[0]!r} uses {what}, which cannot be trained: use a format without training")


def node_of(proto: onnx.NodeProto, opset: int) -> Node:
    """The node of `proto`."""
    attributes = {}
    for item in proto.attribute:
        value = onnx.helper.get_attribute_value(item)
        attributes[item.name] = value.decode() if isinstance(value, bytes) else value
    return Node(proto.op_type, attributes, tuple(proto.input), tuple(proto.output), opset)


def numbers(value: Tensor | None) -> list[int]:
    """A tensor of integers as a list; [] for None."""
    return [] if value is None else [int(item) for item in value.reshape(-1).tolist()]
