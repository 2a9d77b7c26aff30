"""Recipe of W4A4: matrix products of weights and inputs in 4-bit floats, the inputs with block scales computed at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.ranges import TensorRange, observe_tensors
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs.dynamic_fp4 import BLOCK, as_arithmetic, dynamic_input, tensor_scale
from aigc_edge.compress.graphs.graph import Layer, inferred, types_and_shapes
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.recipes.blockwise import BlockwiseRecipe
from aigc_edge.compress.recipes.weight_only import WeightOnly
from aigc_edge.compress.report import CompressionReport
from aigc_edge.compress.rounding import E2M1_LARGEST, Floats, quantised, spread, to_e2m1, to_e4m3

W4A4 = "w4a4"  # the format of such a layer in reports and targets
PRODUCTS = ("MatMul", "Gemm")


class W4A4Recipe(BlockwiseRecipe):
    """Blockwise weights, with matrix products that read their inputs in 4 bits as well.

    Convolutions read floats, since no engine has such kernels; so do products of one vector per sample (of the timestep
    embedding), which are bound by their weights and would only lose precision.

    The scale of a tensor follows from its largest value along the trajectory. TensorRT gets Q/DQ nodes; all other engines, and
    evaluations, use arithmetic on floats that computes the same.
    """

    def __init__(
        self, format: WeightOnly, model: onnx.ModelProto, reference: HeldOutReference, *, scaled: bool, **how: Any
    ) -> None:
        vectors = _vectors(model)

        def round_inputs(layer: Layer, rows: Floats) -> Floats:
            able = layer.op in PRODUCTS and layer.input not in vectors and rows.shape[1] % BLOCK == 0
            return _rounded(rows) if able else rows

        super().__init__(format, model, reference if scaled else None, round_inputs=round_inputs, **how)
        self.estimator = f"{self.estimator}, largest"
        self._nodes = format.engine == "tensorrt"
        known = types_and_shapes(self.model)
        self._inputs: dict[str, str] = {}  # node → its input in 4 bits
        readers: dict[str, list[Layer]] = {}
        for layer in self.layers:
            fits = layer.input not in vectors and len(known.get(layer.input, (0, []))[1]) > 1
            if layer.op in PRODUCTS and layer.node not in self._plain and fits:
                self._inputs[layer.node] = self._changes[layer.node].inputs.get(0, layer.input)
                readers.setdefault(layer.input, []).append(layer)
        self.ranges = {name: TensorRange() for name in sorted(set(self._inputs.values()))}

        def observe(tensor: str, values: npt.NDArray[Any], row: int) -> None:
            for layer in readers[tensor]:
                self.ranges[self._inputs[layer.node]].see(values / self._scaling.columns(layer, values.shape[-1]), row)

        observe_tensors(self.model, readers, reference.calibration_records, observe, reference.threads)
        sizes = {tensor.name: tensor.dims for tensor in self.model.graph.initializer}
        for layer in (layer for several in readers.values() for layer in several):
            name, shape = self._inputs[layer.node], sizes[layer.weight]
            size = int(np.prod(shape)) // int(shape[layer.axis])
            activation = dynamic_input(name, tensor_scale(self.ranges[name].largest), len(known[layer.input][1]), size)
            weight = self._changes[layer.node]
            self._changes[layer.node] = joined = _joined(weight, activation)
            # With scales in half precision TensorRT-RTX 1.7 crashes; with results in half precision it moves the slices behind a
            # fused product of query, key and value in front of it, and then multiplies in half precision.
            self._kept[layer.node] = {layer.node, *(node.output[0] for node in joined.before if node.op_type != "Mul")}

    def format_of(self, layer: Layer) -> str:
        return W4A4 if layer.node in self._inputs else super().format_of(layer)

    def build(self, layers: Sequence[Layer], **options: Any) -> onnx.ModelProto:
        model = super().build(layers)
        return model if self._nodes else as_arithmetic(model)

    def emulated(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return super().emulated(as_arithmetic(model))

    def complete(self, report: CompressionReport) -> None:
        report.ranges = {name: seen.to_json() for name, seen in self.ranges.items()}


def _vectors(model: onnx.ModelProto) -> set[str]:
    """Tensors [batch, size], with the batch dimension named as in the network's inputs."""
    graph = inferred(model)
    sizes = {v.name: v.type.tensor_type.shape.dim for v in [*graph.input, *graph.value_info, *graph.output]}
    batch = {sizes[value.name][0].dim_param for value in graph.input if len(sizes[value.name])} - {""}
    return {name for name, dims in sizes.items() if len(dims) == 2 and dims[0].dim_param in batch}


def _joined(weight: Change, activation: Change) -> Change:
    before, inputs = (*weight.before, *activation.before), {**weight.inputs, **activation.inputs}
    return Change((*weight.tensors, *activation.tensors), before, inputs)


def _rounded(rows: Floats) -> Floats:
    """Rows of a layer's input rounded to 4 bits."""
    whole = tensor_scale(float(np.abs(rows).max(initial=0.0)))
    largest = np.abs(rows).reshape(len(rows), -1, BLOCK).max(axis=2)
    scales = to_e4m3(largest / (whole * np.float32(E2M1_LARGEST))) * whole
    codes = quantised(rows, np.where(scales > 0, scales, np.float32(1)), to_e2m1)
    return codes * spread(scales, rows.shape[1])
