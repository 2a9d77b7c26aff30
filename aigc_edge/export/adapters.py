"""Adapters exported as a branch of their own, W x + s B (A x), folded into W: LoRA (arXiv 2106.09685) that was not merged.

Formats then see one weight, and the network computes one product. W + s B A is computed in float64: only rounding differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

PRODUCTS = ("MatMul", "Gemm", "Conv")
_PLACES = ("strides", "pads", "dilations", "auto_pad")  # of a convolution: what it reads for each of its outputs


@dataclass(frozen=True)
class _Branch:
    """The nodes that compute a value from `source` by products with constants, the last first, and the factor on the result."""

    source: ir.Value
    products: list[ir.Node]
    factor: float


def fold_adapters(model: ir.Model) -> None:
    """Add every product of two constant matrices beside a product with one to the latter's weight, in place.

    The branches are MatMul or Gemm, or convolutions, of which the second of the adapter is 1x1; a scale is a constant scalar.
    Weights with another reader, and branches with a bias, an activation or another result between them, are left as they are.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "Add" and len(node.inputs) == 2:
            changed = any(_merged(model, node, main, 1 - main) for main in (0, 1)) or changed
    if changed:
        common.RemoveUnusedNodesPass()(model)


def _merged(model: ir.Model, node: ir.Node, main: int, side: int) -> bool:
    """Merge the input `side` of the sum `node` into the weight behind its input `main`, if they have that form."""
    values = node.inputs[main], node.inputs[side]
    if values[0] is None or values[1] is None or node.outputs[0].is_graph_output():
        return False
    whole, adapter = _branch(values[0], biased=True), _branch(values[1], biased=False)
    if whole is None or adapter is None or (len(whole.products), len(adapter.products)) != (1, 2) or whole.factor != 1:
        return False
    (base,), (last, first) = whole.products, adapter.products
    weight = base.inputs[1]
    if whole.source is not adapter.source or weight is None or len(weight.uses()) != 1 or weight.is_graph_output():
        return False
    if "Conv" in (base.op_type, first.op_type, last.op_type):
        added = _convolution(base, first, last)
    else:
        down, up = _matrix(first), _matrix(last)
        added = None if down is None or up is None or down.shape[1] != up.shape[0] else down @ up
        added = added.T if added is not None and _attribute(base, "transB", 0) else added
    array = _array(weight)
    if added is None or array is None or array.dtype != np.float32 or added.shape != array.shape:
        return False
    if base.op_type == "Gemm" and (_attribute(base, "alpha", 1.0) != 1 or _attribute(base, "transA", 0)):
        return False
    weight.const_value = ir.tensor((array + adapter.factor * added).astype(np.float32), name=weight.name)
    ir.convenience.replace_all_uses_with(node.outputs[0], values[0])
    model.graph.remove(node, safe=True)
    return True


def _branch(value: ir.Value, *, biased: bool) -> _Branch | None:
    """The branch that ends in `value`, of at most two products; `biased`: it may add constants."""
    products: list[ir.Node] = []
    factor = 1.0
    while len(products) < (1 if biased else 2):
        node = value.producer()
        if node is None or len(value.uses()) != 1 or value.is_graph_output() or node.domain not in ("", "ai.onnx"):
            return None
        constants = [_array(entry) for entry in node.inputs]
        if node.op_type in PRODUCTS and constants[0] is None and constants[1] is not None:
            if len(node.inputs) > 2 and node.inputs[2] is not None and not biased:
                return None
            products.append(node)
            position = 0
        elif node.op_type in ("Mul", "Div", "Add") and len(constants) == 2 and (constants[0] is None) != (constants[1] is None):
            position = 0 if constants[0] is None else 1
            constant = constants[1 - position]
            assert constant is not None
            if node.op_type == "Add" and not biased:
                return None
            if node.op_type == "Div" and (position == 1 or not constant.all()):
                return None
            if node.op_type != "Add":
                if biased or constant.size != 1 or constant.ndim > 1:
                    return None
                factor = factor * float(constant.item()) if node.op_type == "Mul" else factor / float(constant.item())
        else:
            return None
        source = node.inputs[position]
        assert source is not None
        value = source
    return _Branch(value, products, factor)


def _matrix(node: ir.Node) -> npt.NDArray[np.float64] | None:
    """The matrix [inputs, outputs] that a MatMul or Gemm multiplies by."""
    array = _array(node.inputs[1])
    if array is None or array.ndim != 2 or _attribute(node, "transA", 0):
        return None
    turned = array.T if _attribute(node, "transB", 0) else array
    return turned.astype(np.float64) * float(_attribute(node, "alpha", 1.0))


def _convolution(base: ir.Node, first: ir.Node, last: ir.Node) -> npt.NDArray[np.float64] | None:
    """The weight of both convolutions of an adapter as one with the places of `base`."""
    down, up = _array(first.inputs[1]), _array(last.inputs[1])
    if {base.op_type, first.op_type, last.op_type} != {"Conv"} or down is None or up is None:
        return None
    if any(_attribute(node, "group", 1) != 1 for node in (base, first, last)):
        return None
    if any(_places(base, name, down.ndim) != _places(first, name, down.ndim) for name in _PLACES):
        return None
    neutral = _attribute(last, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(_attribute(last, "pads", (0,)))
    if up[0, 0].size != 1 or not neutral or any(stride != 1 for stride in _attribute(last, "strides", (1,))):
        return None
    if up.shape[1] != down.shape[0]:
        return None
    joined: npt.NDArray[np.float64] = np.tensordot(
        up.reshape(up.shape[:2]).astype(np.float64), down.astype(np.float64), axes=(1, 0)
    )
    return joined


def _places(node: ir.Node, name: str, rank: int) -> Any:
    """An attribute of a convolution, with its default spelt out."""
    defaults = {"auto_pad": "NOTSET", "pads": (0,) * (2 * (rank - 2))}
    value = _attribute(node, name, defaults.get(name, (1,) * (rank - 2)))
    return value if isinstance(value, str) else tuple(value)


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _array(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The constant that a value is, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()
