"""W4A8: int8 networks whose weights are stored in 4 bits by blocks under one scale per channel (Lin et al. 2024, QServe).

The two levels of scales expand exactly to int8 weights, so an engine computes the int8 network, with its speed and memory; the
file is little more than half as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.opset import raise_opset
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES
from aigc_edge.compress.graphs.two_level import block_for
from aigc_edge.compress.recipes.int8_activations import Int8Activations
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.w4a8 import W4A8Recipe
from aigc_edge.config import option

OPSET = 21  # int4


@FORMATS.register("w4a8")
@dataclass(frozen=True)
class W4A8(Int8Activations):
    """Options of W4A8, whose activations and layers are those of `int8`.

    Weights of sensitive layers, and those that no block divides, are in int8, and where not even that holds the budget, a few
    layers stay in float.
    """

    name: ClassVar[str] = "w4a8"
    requires: ClassVar[tuple[str, ...]] = ("w4a8",)
    expected_psnr: ClassVar[float] = 18.0
    expected_size: ClassVar[float] = 0.16
    alternative: ClassVar[str] = "int8"

    engine: str = option("onnxruntime", "the engine that the graph is for", choices=("onnxruntime", "openvino"))
    psnr: float = option(25.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    block: int = option(32, "inputs that share a scale", choices=(16, 32, 64, 128))

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        block = 0 if edge else block_for(inputs, self.block)
        if not block:
            return channel_bytes(outputs, inputs)
        return outputs * inputs // 2 + 2 * outputs * inputs // block + 5 * outputs  # a scale and a zero point per channel

    def prepare(self, model: onnx.ModelProto, calibration: Calibration | None, threads: int) -> onnx.ModelProto:
        return super().prepare(raise_opset(model, OPSET), calibration, threads)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        assert reference is not None
        return W4A8Recipe(
            SCHEMES[self.engine],
            model,
            reference,
            self.compute(model, reference.calibration),
            estimators=self.estimators,
            block=self.block,
            allowed=reference.allowed_error(self.requirement),
            requested=str(self.requirement),
        )
