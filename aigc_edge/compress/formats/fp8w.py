"""FP8 weights (E4M3), one scale per channel; arithmetic in float (Micikevicius et al. 2022, "FP8 Formats for Deep Learning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.packing import per_channel
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.weight_only import PackedRecipe, WeightOnly
from aigc_edge.compress.rounding import E4M3_LARGEST, SMALLEST_SCALE, to_e4m3


@FORMATS.register("fp8w")
@dataclass(frozen=True)
class Fp8Weights(WeightOnly):
    """Weights of convolutions, matrix products and embedding tables in E4M3, scale = largest / 448."""

    name: ClassVar[str] = "fp8w"
    requires: ClassVar[tuple[str, ...]] = ("fp8w",)
    expected_psnr: ClassVar[float] = 30.0
    expected_size: ClassVar[float] = 0.26

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        return PackedRecipe(self, model, fp8_channels, opset=19, estimator="largest", inner=True)


def fp8_channels(layer: Layer, weight: npt.NDArray[np.float32]) -> Change:
    """E4M3 with one scale per channel, which half precision can represent."""
    rows = np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], -1)
    scales = np.maximum(np.abs(rows).max(axis=1) / np.float32(E4M3_LARGEST), np.float32(SMALLEST_SCALE))
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    return per_channel(layer, to_e4m3(weight / scales.reshape(shape)), scales, "fp8")
