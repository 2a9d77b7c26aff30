"""Operators that work element by element, and those that compare and choose."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from aigc_edge.compress.trainable.node import OPERATORS, Node, Operator

_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,  # networks are trained in float32, whatever they are stored and computed in
    11: torch.float64,
    16: torch.float32,
}


def _cast(node: Node, x: Tensor) -> Tensor:
    kind = node.get("to")
    if kind not in _TYPES:
        raise node.unsupported(f"the element type {kind}")
    return x.to(_TYPES[kind])


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


_OPERATORS: dict[str, Operator] = {
    "Abs": lambda node, x: x.abs(),
    "Add": lambda node, a, b: a + b,
    "And": lambda node, a, b: torch.logical_and(a, b),
    "Cast": _cast,
    "Ceil": lambda node, x: x.ceil(),
    "Clip": _clip,
    "Cos": lambda node, x: x.cos(),
    "Div": lambda node, a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Elu": lambda node, x: functional.elu(x, node.get("alpha", 1.0)),
    "Equal": lambda node, a, b: a == b,
    "Erf": lambda node, x: x.erf(),
    "Exp": lambda node, x: x.exp(),
    "Floor": lambda node, x: x.floor(),
    "Gelu": lambda node, x: functional.gelu(x, approximate=node.get("approximate", "none")),
    "Greater": lambda node, a, b: a > b,
    "GreaterOrEqual": lambda node, a, b: a >= b,
    "HardSigmoid": lambda node, x: (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0, 1),
    "Identity": lambda node, x: x,
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "Less": lambda node, a, b: a < b,
    "LessOrEqual": lambda node, a, b: a <= b,
    "Log": lambda node, x: x.log(),
    "Max": lambda node, *values: reduce(torch.maximum, values),
    "Min": lambda node, *values: reduce(torch.minimum, values),
    "Mish": lambda node, x: functional.mish(x),
    "Mod": lambda node, a, b: torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b),
    "Mul": lambda node, a, b: a * b,
    "Neg": lambda node, x: -x,
    "Not": lambda node, x: torch.logical_not(x),
    "Or": lambda node, a, b: torch.logical_or(a, b),
    "PRelu": lambda node, x, slope: torch.where(x < 0, x * slope, x),
    "Pow": lambda node, a, b: torch.pow(a, b.to(a.dtype) if b.is_floating_point() else b),
    "Reciprocal": lambda node, x: x.reciprocal(),
    "Relu": lambda node, x: x.relu(),
    "Sigmoid": lambda node, x: x.sigmoid(),
    "Sign": lambda node, x: x.sign(),
    "Sin": lambda node, x: x.sin(),
    "Softplus": lambda node, x: functional.softplus(x),
    "Sqrt": lambda node, x: x.sqrt(),
    "Sub": lambda node, a, b: a - b,
    "Sum": lambda node, *values: reduce(torch.add, values),
    "Swish": lambda node, x: x * torch.sigmoid(node.get("alpha", 1.0) * x),
    "Tanh": lambda node, x: x.tanh(),
    "Where": lambda node, chosen, a, b: torch.where(chosen, a, b),
}
for _name, _operator in _OPERATORS.items():
    OPERATORS.register(_name)(_operator)
