"""float16: half the size; as fast as the hardware multiplies halves (GPUs do, x86 does not)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.formats.base import FORMATS
from aigc_edge.compress.formats.sixteen import Sixteen
from aigc_edge.compress.graphs.half import HALF
from aigc_edge.compress.proving.mixture import Mixed, Recipe
from aigc_edge.compress.proving.proof import Proof


@FORMATS.register("fp16")
@dataclass(frozen=True)
class Fp16(Mixed):
    """Weights and arithmetic in half precision; normalisation, softmax and angles in float32; inputs and outputs float32."""

    name: ClassVar[str] = "fp16"
    requires: ClassVar[tuple[str, ...]] = ("fp16",)
    expected_psnr: ClassVar[float] = 45.0
    expected_size: ClassVar[float] = 0.51
    constant_bytes: ClassVar[int] = 2

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return 2 * outputs * inputs

    def recipe(self, model: onnx.ModelProto, proof: Proof | None) -> Recipe:
        return Sixteen("fp16", model, HALF)
