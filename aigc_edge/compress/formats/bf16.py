"""bfloat16: half the size with the range of float32, for networks that overflow in half precision (GPUs from Ampere on)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS
from aigc_edge.compress.graphs.half import BFLOAT16
from aigc_edge.compress.graphs.opset import raise_opset
from aigc_edge.compress.recipes.half_precision import HalfPrecision, HalfPrecisionRecipe
from aigc_edge.compress.recipes.recipe import ConversionRecipe


@FORMATS.register("bf16")
@dataclass(frozen=True)
class Bf16(HalfPrecision):
    """Weights and arithmetic in bfloat16; normalisation, softmax and angles in float32; inputs and outputs float32."""

    name: ClassVar[str] = "bf16"
    requires: ClassVar[tuple[str, ...]] = ("bf16",)
    expected_psnr: ClassVar[float] = 30.0
    expected_size: ClassVar[float] = 0.5

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        return HalfPrecisionRecipe("bf16", raise_opset(model, 22), BFLOAT16)  # convolutions in bfloat16 need opset 22
