"""Turns a float32 graph into a half-precision one: casts where the precision changes, standard operators only.

onnxruntime's own converter leaves nodes out of order, so that onnx.checker refuses the file, and knows nothing of Q/DQ scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graph import initialisers, types_and_shapes

# Sums over many elements, and functions that magnify the rounding of their argument.
# fmt: off
_SENSITIVE = frozenset((
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "BatchNormalization", "RMSNormalization",
    "LpNormalization", "Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool",
    "CumSum", "Exp", "Log", "Pow", "Reciprocal", "Sin", "Cos", "Tan", "Range",
))
# fmt: on
_PERIODIC = ("Sin", "Cos", "Tan")  # an angle of 50 in half precision is off by 0.03: what computes it stays in float32 too
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that ONNX wants in float32 whatever the data is
_LARGEST, _SMALLEST = 65504.0, 2.0**-14  # below the one half precision loses digits, above the other it overflows


def _beyond_half(sizes: npt.NDArray[Any], typical: Callable[[npt.NDArray[Any]], Any]) -> bool:
    """Whether half precision overflows on a constant, or has lost its digits: for weights the largest counts, for scales all."""
    return bool(sizes.size and (sizes.max() > _LARGEST or 0 < typical(sizes) < _SMALLEST))


def _kept(model: onnx.ModelProto, constants: dict[str, npt.NDArray[Any]]) -> set[int]:
    """Indices of the nodes that stay in float32."""
    nodes = model.graph.node
    producer = {name: index for index, node in enumerate(nodes) for name in node.output}
    kept = {index for index, node in enumerate(nodes) if node.op_type in _SENSITIVE}
    for index, node in enumerate(nodes):
        floats = [constants[name] for name in node.input if name in constants and constants[name].dtype == np.float32]
        scales = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if any(_beyond_half(np.abs(a), np.min if scales else np.max) for a in floats):
            kept.add(index)
    waiting = [index for index in kept if nodes[index].op_type in _PERIODIC]
    while waiting:
        for name in nodes[waiting.pop()].input:
            if name in producer and producer[name] not in kept:
                kept.add(producer[name])
                waiting.append(producer[name])
    return kept


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose float32 weights and arithmetic are float16; inputs and outputs stay float32.

    Normalisations, softmax, reductions and the angles of timestep embeddings stay in float32, and so does any node with a
    constant that float16 cannot hold.
    """
    constants = initialisers(model)
    known = types_and_shapes(model)
    kept = _kept(model, constants)
    is_float = {name for name, (kind, _) in known.items() if kind == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    halves: set[str] = set()  # activations that exist in half precision only
    casts: dict[tuple[str, int], str] = {}
    used: dict[str, npt.NDArray[Any]] = {}

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            casts[name, to] = f"{name}_{'half' if to == TensorProto.FLOAT16 else 'float'}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, to]], name=f"{casts[name, to]}_cast", to=to))
        return casts[name, to]

    def read(name: str, half: bool) -> str:
        if name not in is_float:
            if name in constants:
                used[name] = constants[name]
            return name
        if name in constants:
            key = f"{name}_half" if half else name
            used[key] = constants[name].astype(np.float16) if half else constants[name]
            return key
        if half == (name in halves):
            return name
        return cast(name, TensorProto.FLOAT16 if half else TensorProto.FLOAT)

    outputs = {value.name for value in model.graph.output}
    for index, node in enumerate(model.graph.node):
        # What makes floats of other things (ConstantOfShape, Range) makes them in the type that its attributes say.
        half = index not in kept and (node.op_type == "Cast" or any(name in is_float for name in node.input))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name:
                copy.input[place] = read(name, half and place not in _FLOAT_INPUTS.get(node.op_type, ()))
        if half and node.op_type == "Cast":
            _recast(copy)
        nodes.append(copy)
        for place, name in enumerate(node.output):
            if half and name in is_float:
                halves.add(name)
                if name in outputs:  # a graph output keeps its name and type
                    copy.output[place] = f"{name}_inner"
                    halves.discard(name)
                    nodes.append(helper.make_node("Cast", [f"{name}_inner"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    return _assembled(model, nodes, used)


def _recast(node: onnx.NodeProto) -> None:
    for item in node.attribute:
        if item.name == "to" and item.i == TensorProto.FLOAT:
            item.i = TensorProto.FLOAT16


def _assembled(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], used: dict[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    result = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        metadata_props=model.metadata_props,
    )
    result.graph.name = model.graph.name
    result.graph.input.extend(model.graph.input)
    result.graph.output.extend(model.graph.output)
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in used.items())
    return result
