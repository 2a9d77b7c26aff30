"""An ONNX graph as a torch module: its float constants are parameters, and quantised weights are trained as master weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from aigc_edge.compress.graphs.opset import opset_of
from aigc_edge.compress.trainable.node import OPERATORS, Node, node_of
from aigc_edge.compress.trainable.operators.quantised import E4M3, RANGES, rounded
from aigc_edge.errors import BudgetError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_CODES: dict[int, int] = {
    TensorProto.INT8: 127,
    TensorProto.INT4: 7,
    TensorProto.INT32: 2**31 - 1,
}  # symmetric: what is stored and clamped to
_BY_SHAPE = ("Reshape", "Expand", "Resize", "Slice", "Tile", "Pad", "Range", "ConstantOfShape", "Clip")


class Trainable(nn.Module):
    """Computes `model` as a function of named inputs, differentiable in its constants of type float.

    Constants that a DequantizeLinear reads are parameters in units of their scale, rounded straight-through on every call; they
    start from `master_weights` where these are given, else from the codes. Scales, zero points and the sizes that operators such
    as Resize read are fixed. Half precision is computed in float32. Raises BudgetError for an unsupported operator.
    """

    def __init__(self, model: onnx.ModelProto, master_weights: dict[str, npt.NDArray[np.float32]] | None = None) -> None:
        super().__init__()
        self.model = model
        nodes = model.graph.node
        known = set(OPERATORS)
        lacking = sorted({node.op_type for node in nodes if node.op_type not in known or node.domain not in ("", "ai.onnx")})
        if lacking:
            raise BudgetError(
                f"the network uses {', '.join(lacking)}, which cannot be trained: use a format without training (steps=0)"
            )
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = [_with_kind(node_of(node, opset_of(model)), tensors) for node in nodes]
        self._last = _last_uses(self._nodes, [value.name for value in model.graph.output])
        fixed, coded = _roles(self._nodes, tensors)
        self._names: dict[str, str] = {}  # constant → parameter
        self._kinds = {name: tensors[name].data_type for name in coded}
        self._constants: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            value = _torch_value(tensor)
            if (name in coded or tensor.data_type in _FLOATS) and name not in fixed:
                if master_weights and name in master_weights:
                    value = torch.from_numpy(np.array(master_weights[name], np.float32)).reshape(value.shape)
                self._names[name] = f"p{len(self._names)}"
                self.register_parameter(self._names[name], nn.Parameter(value.float()))
            else:
                self._constants[name] = value

    def forward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """All outputs for `inputs`; integer inputs get no gradient."""
        values: dict[str, Tensor] = {**self._constants, **inputs}
        for name, parameter in self._names.items():
            own = self.get_parameter(parameter)
            values[name] = _coded(own, self._kinds[name]) if name in self._kinds else own
        for index, node in enumerate(self._nodes):
            outputs = OPERATORS[node.op](node, *(values[name] if name else None for name in node.inputs))
            for name, value in zip(node.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=False):
                values[name] = value
            for name in self._last[index]:
                values.pop(name, None)
        return [values[value.name] for value in self.model.graph.output]

    def trained(self) -> onnx.ModelProto:
        """The model with the current parameters, in its original types."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name not in self._names:
                continue
            value: Tensor = self.get_parameter(self._names[tensor.name]).detach()
            if tensor.name in self._kinds:
                value = _coded(value, self._kinds[tensor.name])
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(value.float().numpy().astype(dtype), tensor.name))
        return model

    def sizes(self) -> list[tuple[nn.Parameter, float]]:
        """Every parameter with its current root mean square."""
        return [(value, float(value.detach().square().mean().sqrt())) for value in self.parameters() if value.numel()]


def _coded(value: Tensor, kind: int) -> Tensor:
    return rounded(value.clamp(-_CODES[kind], _CODES[kind]) if kind in _CODES else value, kind)


def _torch_value(tensor: onnx.TensorProto) -> Tensor:
    value: Any = numpy_helper.to_array(tensor)
    small = tensor.data_type in _FLOATS or value.dtype in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn)
    try:
        return torch.from_numpy(np.array(value.astype(np.float32) if small else value))
    except TypeError as error:
        raise BudgetError(f"constant {tensor.name!r} is of type {value.dtype}, which cannot be trained") from error


def _with_kind(node: Node, tensors: dict[str, onnx.TensorProto]) -> Node:
    """Give QuantizeLinear the type of its zero point."""
    if node.op == "QuantizeLinear" and len(node.inputs) > 2 and node.inputs[2] in tensors:
        node.attributes["zero_kind"] = tensors[node.inputs[2]].data_type
    return node


def _roles(nodes: list[Node], tensors: dict[str, onnx.TensorProto]) -> tuple[set[str], set[str]]:
    """Float constants that are not trained, and the integer codes that are."""
    fixed: set[str] = set()
    coded: set[str] = set()
    readers = Counter(name for node in nodes for name in node.inputs)
    for node in nodes:
        if node.op in _BY_SHAPE:
            fixed.update(node.inputs[1:])
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            fixed.update(node.inputs[1:])
        if node.op == "DequantizeLinear" and node.inputs[0] in tensors and readers[node.inputs[0]] == 1:
            kind = tensors[node.inputs[0]].data_type
            if kind == E4M3 or kind in RANGES:
                zeros = tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
                centred = zeros is None or not np.any(numpy_helper.to_array(zeros).astype(np.float32))
                if centred:
                    coded.add(node.inputs[0])
    # A single number (an epsilon, the factor of an approximation) is part of the formula and not trained.
    fixed |= {name for name, tensor in tensors.items() if name not in coded and int(np.prod(tensor.dims)) <= 1}
    return fixed, coded


def _last_uses(nodes: list[Node], outputs: list[str]) -> list[list[str]]:
    """For every node the tensors that no later node reads."""
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        last |= {name: index for name in (*node.inputs, *node.outputs) if name}
    tensors_by_node: list[list[str]] = [[] for _ in nodes]
    for name, index in last.items():
        if name not in outputs:
            tensors_by_node[index].append(name)
    return tensors_by_node
