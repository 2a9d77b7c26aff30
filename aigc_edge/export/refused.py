"""Operators of networks that are not compiled, and the errors that say so; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from aigc_edge.errors import AigcEdgeError

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
QUANTISED = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))
QUANTISED |= frozenset(("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"))


def random_error(what: str, operator: str) -> AigcEdgeError:
    """The error of a graph with an `operator` that draws random numbers; begins with `what`."""
    return AigcEdgeError(f"{what} draws random numbers ({operator}): make them an input")


def quantised_error(what: str, operators: Iterable[str]) -> AigcEdgeError:
    """The error of a graph with the `operators` of a quantised network; begins with `what`."""
    return AigcEdgeError(
        f"{what} is quantised already ({', '.join(sorted(operators))}): compile the float32 network, from which formats such as "
        "int8 are derived"
    )
