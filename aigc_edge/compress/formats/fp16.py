"""float16: half the size; as fast as the hardware multiplies halves (GPUs do, x86 does not)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS
from aigc_edge.compress.graphs.half import HALF
from aigc_edge.compress.recipes.half_precision import HalfPrecision, HalfPrecisionRecipe
from aigc_edge.compress.recipes.recipe import ConversionRecipe


@FORMATS.register("fp16")
@dataclass(frozen=True)
class Fp16(HalfPrecision):
    """Weights and arithmetic in half precision; normalisation, softmax and angles in float32; inputs and outputs float32."""

    name: ClassVar[str] = "fp16"
    requires: ClassVar[tuple[str, ...]] = ("fp16",)
    expected_psnr: ClassVar[float] = 45.0
    expected_size: ClassVar[float] = 0.51

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        return HalfPrecisionRecipe("fp16", model, HALF)
