"""Writes Q/DQ nodes into an ONNX graph: 8-bit weights with one scale per channel, activations with one per tensor.

onnxruntime.quantization writes such nodes too, but one graph for all engines, and it loads, copies and quantises the whole model
for every choice of layers, of which the search tries dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.graphs.activation_matmuls import ACTIVATION_MATMUL
from aigc_edge.compress.graphs.graph import Layer, attribute, readers
from aigc_edge.compress.graphs.qdq_scheme import QdqScheme
from aigc_edge.compress.graphs.rewrite import assembled, copied, read_stored
from aigc_edge.compress.graphs.two_level import TwoLevel, written
from aigc_edge.compress.rounding import Floats, Scale

# Operators that only move values: behind them the scale is the one in front, so engines can move the integers instead.
# fmt: off
_MOVES = (
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth", "MaxPool", "Slice",
)
# fmt: on


def quantise_weight(weight: Floats, axis: int, least: npt.ArrayLike = 0.0) -> tuple[npt.NDArray[np.int8], Floats]:
    """Symmetric int8 with one float32 scale per channel of `axis`: scale = max |w| / 127, at least `least`.

    A channel of zeros gets the largest scale of the others: any suits the weight, but engines round the bias to multiples
    of (weight scale · input scale), in int32.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    scale = (np.abs(rows).max(axis=1) / np.float32(127)).astype(np.float32)
    scale = np.where(scale > 0, scale, scale.max() or np.float32(1))
    scale = np.maximum(scale, np.asarray(least, np.float32)).astype(np.float32)
    integers = np.clip(np.rint(weight / along_axis(scale, axis, weight.ndim)), -127, 127).astype(np.int8)
    return integers, scale


def along_axis(values: Floats, axis: int, rank: int) -> Floats:
    """`values` [n] in a shape that broadcasts along `axis` of an array of that rank."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def source_of(model: onnx.ModelProto) -> dict[str, str]:
    """For every tensor that operators only moved: the tensor in front of them."""
    moved: dict[str, str] = {}
    for node in model.graph.node:
        if _moves(node):
            moved[node.output[0]] = moved.get(node.input[0], node.input[0])
    return moved


def _moves(node: onnx.NodeProto) -> bool:
    nearest = node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"nearest"
    return node.op_type in _MOVES or nearest


def _inputs(layer: Layer) -> tuple[str, ...]:
    """The activations that a layer reads."""
    return (layer.input, layer.weight) if layer.op == ACTIVATION_MATMUL else (layer.input,)


def integers_only(model: onnx.ModelProto, layers: Collection[Layer]) -> set[str]:
    """Outputs of operators that move values, read in the end by `layers` only: they can be quantised in front."""
    chosen = {(layer.node, name) for layer in layers for name in _inputs(layer)}
    moved: set[str] = set()
    reading = readers(model)
    for node in reversed(model.graph.node):
        if _moves(node) and (behind := reading.get(node.output[0])):
            name = node.output[0]
            if all(r.output and ((r.output[0], name) in chosen or (r.output[0] in moved and r.input[0] == name)) for r in behind):
                moved.add(name)
    return moved


def observed(model: onnx.ModelProto, layers: Collection[Layer], results: bool = True) -> set[str]:
    """The tensors whose ranges are needed to quantise the inputs of `layers`, and their `results`."""
    moved = source_of(model)
    names = {name for layer in layers for name in _inputs(layer)}
    names |= {layer.output for layer in layers if results and layer.op != ACTIVATION_MATMUL}
    return {moved.get(name, name) for name in names}


def factors(model: onnx.ModelProto, layers: Collection[Layer]) -> set[str]:
    """The tensors (in front of operators that move them) that activation matmuls among `layers` read."""
    moved = source_of(model)
    return {moved.get(name, name) for layer in layers if layer.op == ACTIVATION_MATMUL for name in _inputs(layer)}


def master_weight(weight: Floats, codes: npt.NDArray[Any], scale: Floats, axis: int, block: int = 0) -> Floats:
    """What the integer `codes` were rounded from: `weight` in units of their scale, and codes where it was clamped."""
    exact = weight.reshape(codes.shape) / (scale.repeat(block, axis=axis) if block else along_axis(scale, axis, codes.ndim))
    return np.where(np.rint(exact) == codes, exact, codes).astype(np.float32)


class QdqWriter:
    """Builds quantised versions of one model by a scheme; weights are quantised once and shared by all versions.

    The tensors `signed` (in front of operators that move them) are int8 with zero point 0 in any case. `pack` gives the codes of
    4 bits that a layer's weight has under the scales of its channels.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        scales: Mapping[str, Scale],
        scheme: QdqScheme,
        signed: Collection[str] = (),
        pack: Callable[[Layer, Floats, Floats], TwoLevel] | None = None,
    ) -> None:
        self.model, self.scales, self.scheme, self.signed, self._pack = model, scales, scheme, frozenset(signed), pack
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._moved = source_of(model)
        self._weights: dict[str, tuple[npt.NDArray[np.int8], Floats]] = {}
        self._written: dict[str, Layer] = {}  # tensor of codes in the last version → the layer whose weight it is

    def _scale(self, tensor: str) -> Scale:
        return self.scales[self._moved.get(tensor, tensor)]

    def _constant(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self._constants[name])

    def _plain(self, layer: Layer) -> bool:
        """Whether its input stays in float."""
        return not self.scheme.vectors and layer.op == "Gemm" and 4 * layer.macs == layer.bytes

    def _dtype(self, tensor: str) -> type[np.integer[Any]]:
        return np.int8 if self.scheme.symmetric or self._moved.get(tensor, tensor) in self.signed else np.uint8

    def _weight(self, layer: Layer) -> tuple[npt.NDArray[np.int8], Floats]:
        if layer.name not in self._weights:
            # A bias must fit int32 in units of (weight scale · input scale).
            bias = np.abs(self._constant(layer.bias)).ravel() if layer.bias is not None else np.zeros(1, np.float32)
            least = bias / (float(self._scale(layer.input)[0]) * 2.0**30)
            self._weights[layer.name] = quantise_weight(self._constant(layer.weight), layer.axis, least)
        return self._weights[layer.name]

    def master_weights(self) -> dict[str, Floats]:
        """By tensor of integer codes in the last version written: the weight in units of its scale, clamped values as codes."""
        weights = {
            name: (self._constant(layer.weight), *self._weight(layer), layer.axis) for name, layer in self._written.items()
        }
        return {name: master_weight(*of) for name, of in weights.items()}

    def write(self, layers: Collection[Layer], packed: Collection[str] = ()) -> onnx.ModelProto:
        """The model with exactly `layers` in 8 bits; weights of the nodes `packed` are stored in 4 bits and expand to 8."""
        chosen = {layer.node: layer for layer in layers}
        self._written = {}
        behind = {layer.output for layer in layers if self.scheme.fused and layer.op == "Conv"}
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, npt.NDArray[Any]] = {}
        ready: dict[str, str] = {name: name for name in behind}  # tensor: the name of its dequantised form
        stored: dict[str, str] = {}  # weight → the tensor that its other readers take
        moved = integers_only(self.model, [layer for layer in layers if not self._plain(layer)]) if self.scheme.early else set()

        def quantise(tensor: str, source: str, result: str) -> None:
            scale, zero = self._scale(tensor)
            names = [f"{tensor}_scale", f"{tensor}_zero"]
            constants[names[0]] = np.asarray(scale, np.float32)
            constants[names[1]] = np.asarray(zero, self._dtype(tensor))
            nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"{tensor}_q"], name=f"{tensor}_quantize"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}_q", *names], [result], name=f"{tensor}_dequantize"))

        for node in self.model.graph.node:
            copy = copied(node)
            layer = chosen.get(node.output[0])
            if node.output[0] in moved:
                if node.input[0] not in ready:
                    ready[node.input[0]] = f"{node.input[0]}_dq"
                    quantise(node.input[0], node.input[0], ready[node.input[0]])
                copy.input[0] = ready[node.input[0]]
                ready[node.output[0]] = node.output[0]
            if layer is not None:
                for tensor in () if self._plain(layer) else _inputs(layer):
                    if tensor not in ready:
                        ready[tensor] = f"{tensor}_dq"
                        quantise(tensor, tensor, ready[tensor])
                # With onnxruntime's int8 kernels each layer has integers of its own: it cannot convert shared ones to uint8.
                name = f"{layer.weight}_{layer.node}" if self.scheme.fused and layer.weight in stored else layer.weight
                if name not in ready:
                    ready[name] = f"{name}_dq"
                    names = [f"{name}_{part}" for part in ("int8", "scale", "zero")]
                    integers, scale = self._weight(layer)
                    self._written[names[0]] = layer
                    constants |= zip(names, (integers, scale, np.zeros(len(scale), np.int8)), strict=True)
                    if layer.node in packed and self._pack is not None:
                        del constants[names[0]]
                        weight = self._pack(layer, self._constant(layer.weight), scale)
                        stages, expanding = written(weight, name, names[0], integers.shape, layer.axis == 0)
                        constants |= stages
                        nodes += expanding
                    nodes.append(helper.make_node("DequantizeLinear", names, [ready[name]], name=ready[name], axis=layer.axis))
                    if layer.op != ACTIVATION_MATMUL and layer.weight not in stored:
                        stored[layer.weight] = self._in_float(layer, nodes, constants) if self.scheme.fused else ready[name]
                copy.input[1] = ready[name]
                if not self._plain(layer):
                    copy.input[0] = ready[layer.input]
                if self.scheme.fused and layer.op == "Gemm" and layer.bias is not None:
                    self._quantise_bias(layer, copy, nodes, constants)
            nodes.append(copy)
            if node.output[0] in behind:
                copy.output[0] = f"{node.output[0]}_float"
                quantise(node.output[0], copy.output[0], node.output[0])
        tensors = (numpy_helper.from_array(value, name) for name, value in constants.items())
        return assembled(self.model, read_stored(nodes, stored), tensors)

    def _in_float(self, layer: Layer, nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]]) -> str:
        """The weight for readers in float: not by DequantizeLinear, which is converted to uint8 together with the layer's."""
        codes, float_codes, column, result = (f"{layer.weight}_{part}" for part in ("int8", "integers", "column", "float"))
        integers, scale = self._weight(layer)
        constants[column] = along_axis(scale, layer.axis, integers.ndim)
        nodes.append(helper.make_node("Cast", [codes], [float_codes], name=float_codes, to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [float_codes, column], [result], name=result))
        return result

    def _quantise_bias(
        self, layer: Layer, node: onnx.NodeProto, nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]]
    ) -> None:
        scale = self._weight(layer)[1] * self._scale(layer.input)[0]
        bias = self._constant(layer.bias or "")
        if bias.shape != scale.shape or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
            return  # stays float: right, only slower
        names = [f"{node.output[0]}_bias_{part}" for part in ("int32", "scale", "zero")]
        integers = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
        constants |= zip(names, (integers, scale, np.zeros(len(scale), np.int32)), strict=True)
        node.input[2] = f"{node.output[0]}_bias_dq"
        nodes.append(helper.make_node("DequantizeLinear", names, [node.input[2]], name=node.input[2], axis=0))
