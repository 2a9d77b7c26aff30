"""FP8 W8A8: weights and activations in E4M3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"), as standard Q/DQ nodes.

Weights have one scale per channel, activations one per tensor: the largest value along the trajectory maps to 448.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.calibration.ranges import TensorRange, observe_tensors
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.formats.fp8w import fp8_channels
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.qdq import source_of
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.weight_only import PackedRecipe, WeightOnly
from aigc_edge.compress.report import CompressionReport
from aigc_edge.compress.rounding import E4M3_LARGEST, SMALLEST_SCALE
from aigc_edge.config import option


@FORMATS.register("fp8")
@dataclass(frozen=True)
class Fp8(WeightOnly):
    """Convolutions and matrix products in E4M3; embedding tables and transposed convolutions are weight-only."""

    name: ClassVar[str] = "fp8"
    companion: ClassVar[str | None] = "fp8w"
    requires: ClassVar[tuple[str, ...]] = ("fp8",)
    expected_psnr: ClassVar[float] = 22.0
    expected_size: ClassVar[float] = 0.26

    psnr: float = option(22.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)

    @property
    def calibrates(self) -> bool:
        return True

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

    def computed_in(self, operator: str, inputs: int, rows: int, edge: bool) -> str | None:
        return "fp8"

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        return _Fp8Recipe(self, model, reference)


class _Fp8Recipe(PackedRecipe):
    """Weights as in fp8w, and Q/DQ nodes at the inputs of layers for which there are E4M3 kernels."""

    def __init__(self, format: Fp8, model: onnx.ModelProto, reference: HeldOutReference | None) -> None:
        super().__init__(format, model, fp8_channels, opset=19, estimator="minmax")
        assert reference is not None
        self._moved = source_of(self.model)
        inputs = {self._source(layer) for layer in self.layers if layer.op in ("Conv", "Gemm", "MatMul")}
        self.ranges = {name: TensorRange() for name in sorted(inputs)}

        def observe(tensor: str, values: npt.NDArray[Any], row: int) -> None:
            self.ranges[tensor].see(values, row)

        observe_tensors(self.model, self.ranges, reference.calibration_records, observe, reference.threads)
        self._weight_bytes = {node: change.bytes for node, change in self._changes.items()}
        self._changes = {layer.node: self._with_input(layer, self._changes[layer.node]) for layer in self.layers}

    def bytes_of(self, layer: Layer) -> int:
        return self._weight_bytes[layer.node]

    def _source(self, layer: Layer) -> str:
        return self._moved.get(layer.input, layer.input)

    def complete(self, report: CompressionReport) -> None:
        report.ranges = {name: seen.to_json() for name, seen in self.ranges.items()}

    def _with_input(self, layer: Layer, change: Change) -> Change:
        seen = self.ranges.get(self._source(layer))
        if seen is None or layer.op == "Gather":
            return change
        names = {part: f"{layer.input}_{part}" for part in ("scale", "zero", "q", "dq")}
        scale = max(seen.largest / E4M3_LARGEST, SMALLEST_SCALE)
        tensors = [
            numpy_helper.from_array(np.asarray(scale, np.float32), names["scale"]),
            numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), names["zero"]),
        ]
        parts = [names["scale"], names["zero"]]
        nodes = [
            helper.make_node("QuantizeLinear", [layer.input, *parts], [names["q"]], name=names["q"]),
            helper.make_node("DequantizeLinear", [names["q"], *parts], [names["dq"]], name=names["dq"]),
        ]
        return Change((*change.tensors, *tensors), (*change.before, *nodes), {**change.inputs, 0: names["dq"]})
