"""INT8 weights, one scale per channel; arithmetic in float: a quarter of the size, almost no error, no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.packing import int8_channels
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.weight_only import PackedRecipe, WeightOnly
from aigc_edge.config import option


@FORMATS.register("int8w")
@dataclass(frozen=True)
class Int8Weights(WeightOnly):
    """Weights of convolutions, matrix products and embedding tables in int8, symmetric, scale = largest / 127."""

    name: ClassVar[str] = "int8w"
    requires: ClassVar[tuple[str, ...]] = ("int8w",)
    expected_psnr: ClassVar[float] = 35.0
    expected_size: ClassVar[float] = 0.26

    psnr: float = option(35.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        return PackedRecipe(self, model, int8_channels, opset=13, estimator="largest", inner=True)
