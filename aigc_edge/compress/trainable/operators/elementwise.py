"""Operators that work element by element, and those that compare and choose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aigc_edge.compress.trainable.node import OPERATORS, Node

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "Log": torch.log,
    "Mish": nn.functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": nn.functional.softplus,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
}
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


def _register() -> None:
    for name, one in _UNARY.items():
        OPERATORS.register(name)(lambda node, x, one=one: one(x))
    for name, two in _BINARY.items():
        OPERATORS.register(name)(lambda node, a, b, two=two: two(a, b))


_register()


@OPERATORS.register("Div")
def _div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@OPERATORS.register("Mod")
def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@OPERATORS.register("Pow")
def _pow_(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b.to(a.dtype) if b.is_floating_point() else b)


@OPERATORS.register("Max")
def _max_(node: Node, *values: Tensor) -> Tensor:
    result = values[0]
    for value in values[1:]:
        result = torch.maximum(result, value)
    return result


@OPERATORS.register("Min")
def _min_(node: Node, *values: Tensor) -> Tensor:
    result = values[0]
    for value in values[1:]:
        result = torch.minimum(result, value)
    return result


@OPERATORS.register("Sum")
def _sum_(node: Node, *values: Tensor) -> Tensor:
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


@OPERATORS.register("Clip")
def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@OPERATORS.register("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, node.get("alpha", 0.01))


@OPERATORS.register("Elu")
def _elu(node: Node, x: Tensor) -> Tensor:
    return nn.functional.elu(x, node.get("alpha", 1.0))


@OPERATORS.register("PRelu")
def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@OPERATORS.register("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate=node.get("approximate", "none"))


@OPERATORS.register("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return (node.get("alpha", 0.2) * x + node.get("beta", 0.5)).clamp(0, 1)


@OPERATORS.register("Swish")
def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


@OPERATORS.register("Where")
def _where(node: Node, chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(chosen, a, b)


@OPERATORS.register("Cast")
def _cast(node: Node, x: Tensor) -> Tensor:
    kind = node.get("to")
    if kind not in _TYPES:
        raise node.unsupported(f"the element type {kind}")
    return x.to(_TYPES[kind])
