"""Converts a float32 graph to 16-bit floats (half precision, bfloat16), with casts where the precision changes.

onnxruntime's own converter leaves nodes out of order, so that onnx.checker refuses the file, and knows nothing of Q/DQ scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graphs.graph import bodies, initialisers, reads, types_and_shapes
from aigc_edge.compress.graphs.opset import opset_of
from aigc_edge.compress.graphs.rewrite import assembled, renamed

# Sums over many elements, and functions that magnify the rounding of their argument.
# fmt: off
_SENSITIVE = frozenset((
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "BatchNormalization", "RMSNormalization",
    "LpNormalization", "Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool",
    "CumSum", "Exp", "Log", "Pow", "Reciprocal", "Sin", "Cos", "Tan", "Range",
))
# fmt: on
_PERIODIC = ("Sin", "Cos", "Tan")  # an angle of 50 in half precision is off by 0.03: nodes that compute it stay in float32 too
LARGE = 1024  # elements: constants that nodes of both precisions read, or bodies, are stored in 16 bits only
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that are float32 for any data type


@dataclass(frozen=True)
class HalfType:
    """A 16-bit float type in NumPy and ONNX, the largest finite value, and the smallest normal number."""

    name: str
    dtype: Any
    onnx: int
    largest: float
    smallest: float


HALF = HalfType("half", np.float16, TensorProto.FLOAT16, 65504.0, 2.0**-14)
BFLOAT16 = HalfType("bf16", ml_dtypes.bfloat16, TensorProto.BFLOAT16, math.inf, 0.0)  # the range of float32


def _beyond(kind: HalfType, sizes: npt.NDArray[Any], typical: Callable[[npt.NDArray[Any]], Any]) -> bool:
    """Whether a constant overflows or becomes denormal in the type: for weights the largest value counts, for scales all."""
    return bool(sizes.size and (sizes.max() > kind.largest or 0 < typical(sizes) < kind.smallest))


def _takes(node: onnx.NodeProto, kind: HalfType, opset: int) -> bool:
    """Whether the operator is defined for the type."""
    if kind is HALF or not node.input or node.op_type == "Cast":
        return True
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    return all("tensor(bfloat16)" in allowed.get(value.type_str, ()) for value in schema.outputs)


def _kept(model: onnx.ModelProto, constants: dict[str, npt.NDArray[Any]], kind: HalfType, keep: frozenset[str]) -> set[int]:
    """Indices of the nodes that stay in float32."""
    nodes = model.graph.node
    producer = {name: index for index, node in enumerate(nodes) for name in node.output}
    opset = opset_of(model)
    kept = {
        index
        for index, node in enumerate(nodes)
        if node.op_type in _SENSITIVE or bodies(node) or not keep.isdisjoint(node.output) or not _takes(node, kind, opset)
    }
    for index, node in enumerate(nodes):
        floats = [constants[name] for name in node.input if name in constants and constants[name].dtype == np.float32]
        scales = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if any(_beyond(kind, np.abs(a), np.min if scales else np.max) for a in floats):
            kept.add(index)
    waiting = [index for index in kept if nodes[index].op_type in _PERIODIC]
    while waiting:
        for name in nodes[waiting.pop()].input:
            if name in producer and producer[name] not in kept:
                kept.add(producer[name])
                waiting.append(producer[name])
    return kept


def to_half(model: onnx.ModelProto, kind: HalfType = HALF, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of `model` whose float32 weights and arithmetic are float16 (or bfloat16); inputs and outputs stay float32.

    Normalisations, softmax, reductions and the angles of timestep embeddings stay in float32, and so does any node with a
    constant that the type cannot hold, with an output among `keep`, with a body, or of an operator that is not defined for the
    type. Weights that these read too are rounded as well.
    """
    constants = initialisers(model)
    known = types_and_shapes(model)
    kept = _kept(model, constants, kind, frozenset(keep))
    is_float = {name for name, (kind, _) in known.items() if kind == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    halves: set[str] = set()  # activations in half precision
    casts: dict[tuple[str, int], str] = {}
    used: dict[str, npt.NDArray[Any]] = {}

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            casts[name, to] = f"{name}_{kind.name if to == kind.onnx else 'float'}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, to]], name=f"{casts[name, to]}_cast", to=to))
        return casts[name, to]

    def read(name: str, half: bool) -> str:
        if name not in is_float:
            if name in constants:
                used[name] = constants[name]
            return name
        if name in constants:
            key = f"{name}_{kind.name}" if half else name
            used[key] = constants[name].astype(kind.dtype) if half else constants[name]
            return key
        if half == (name in halves):
            return name
        return cast(name, kind.onnx if half else TensorProto.FLOAT)

    outputs = {value.name for value in model.graph.output}
    for index, node in enumerate(model.graph.node):
        # Nodes that produce floats from other types (ConstantOfShape, Range) use the type in their attributes.
        half = index not in kept and (node.op_type == "Cast" or any(name in is_float for name in node.input))
        copy = renamed(node, {name: read(name, False) for name in reads(node)[len(node.input) :]})
        for place, name in enumerate(node.input):
            if name:
                copy.input[place] = read(name, half and place not in _FLOAT_INPUTS.get(node.op_type, ()))
        if half:
            recast(copy, (TensorProto.FLOAT,), kind.onnx)
        nodes.append(copy)
        for place, name in enumerate(node.output):
            if half and name in is_float:
                halves.add(name)
                if name in outputs:  # a graph output keeps its name and type
                    copy.output[place] = f"{name}_inner"
                    halves.discard(name)
                    nodes.append(helper.make_node("Cast", [f"{name}_inner"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    captured = {name for node in model.graph.node if bodies(node) for name in reads(node)}
    widened = []
    for name in [name for name in used if name in is_float and used[name].size >= LARGE]:
        key = f"{name}_{kind.name}"
        if key in used or (name in captured and not _beyond(kind, np.abs(used[name]), np.max)):  # stored once, for both
            used[key] = used.pop(name).astype(kind.dtype)
            widened.append(helper.make_node("Cast", [key], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    tensors = [numpy_helper.from_array(value, name) for name, value in used.items()]
    return assembled(model, [*widened, *nodes], tensors, retyped=True)


def recast(node: onnx.NodeProto, kinds: Collection[int], to: int) -> None:
    """Make `node`, if it is a Cast to one of `kinds`, one to the type `to`."""
    for item in node.attribute:
        if node.op_type == "Cast" and item.name == "to" and item.i in kinds:
            item.i = to
