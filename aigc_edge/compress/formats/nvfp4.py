"""NVFP4 weights: 4-bit floats (E2M1) in blocks of 16, with E4M3 scales of the blocks and one float32 scale a tensor.

NVIDIA 2025, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149). Written in standard operators of opset 23, as
TensorRT reads it for Blackwell cards: one DequantizeLinear turns the E4M3 scales into floats, another the weights. Optionally
the inputs of matrix products are in NVFP4 too (W4A4): then the products themselves run in 4 bits there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.formats.fp8w import fp8_channels
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.packing import blocked
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.recipes.blockwise import BlockwiseRecipe
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.w4a4 import PRODUCTS, W4A4, W4A4Recipe
from aigc_edge.compress.recipes.weight_only import WeightOnly
from aigc_edge.compress.rounding import (
    E2M1_LARGEST,
    E4M3_LARGEST,
    E4M3_SMALLEST,
    SMALLEST_SCALE,
    Floats,
    best_scales,
    quantised,
    spread,
    to_e2m1,
    to_e4m3,
)
from aigc_edge.config import option

BLOCK = 16
SHRINK = (1.0, 0.9, 0.8, 0.7)


@FORMATS.register("nvfp4")
@dataclass(frozen=True)
class Nvfp4(WeightOnly):
    """Weights of 4 bits, arithmetic in float; rows that 16 does not divide, embedding tables, first and last layer are E4M3.

    With activations in fp4, matrix products are W4A4; convolutions stay weight-only.
    """

    name: ClassVar[str] = "nvfp4"
    companion: ClassVar[str | None] = "fp8w"
    requires: ClassVar[tuple[str, ...]] = ("nvfp4", "fp8w")
    expected_psnr: ClassVar[float] = 22.0
    expected_size: ClassVar[float] = 0.16

    psnr: float = option(22.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    scaled: bool = option(True, "scale input channels by their activations (AWQ); false needs no calibration data")
    activations: str = option(
        "float", "what matrix products read: float, or fp4 for products in 4 bits (W4A4)", choices=("float", "fp4")
    )

    @property
    def calibrates(self) -> bool:
        return self.scaled or self.activations == "fp4"

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        if edge or inputs % BLOCK:
            return channel_bytes(outputs, inputs)
        return outputs * inputs // 2 + outputs * inputs // BLOCK + 4

    @property
    def asked(self) -> str:
        return W4A4 if self.activations == "fp4" else self.name

    def computed_in(self, operator: str, inputs: int, rows: int, edge: bool) -> str | None:
        able = operator in PRODUCTS and inputs > 0 and inputs % BLOCK == 0 and rows > 1 and not edge
        return "fp4" if able and self.activations == "fp4" else None

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        how: dict[str, Any] = {"pack": _pack, "other": (fp8_channels, "fp8w"), "rounded": _rounded, "opset": 23}
        if self.activations == "float":
            return BlockwiseRecipe(self, model, reference, **how)
        assert reference is not None
        return W4A4Recipe(self, model, reference, scaled=self.scaled, **how)


def _scales(rows: Floats, importance: Floats | None) -> tuple[Floats, np.float32] | None:
    """The scales of the blocks, rounded to E4M3 in units of the tensor's scale, and the tensor's scale."""
    if rows.shape[1] % BLOCK:
        return None
    tensor = np.float32(max(float(np.abs(rows).max()) / (E2M1_LARGEST * E4M3_LARGEST), SMALLEST_SCALE))

    def round_scale(scales: Floats) -> Floats:
        return np.maximum(to_e4m3(scales / tensor), np.float32(E4M3_SMALLEST)) * tensor

    scales = best_scales(rows, BLOCK, E2M1_LARGEST, to_e2m1, shrink=SHRINK, importance=importance, round_scale=round_scale)
    return np.minimum(scales, np.float32(E4M3_LARGEST) * tensor), tensor  # a block of zeros may have any scale


def _pack(layer: Layer, rows: Floats, importance: Floats | None, shape: tuple[int, ...]) -> Change | None:
    chosen = _scales(rows, importance)
    return None if chosen is None else blocked(layer, quantised(rows, chosen[0], to_e2m1), chosen[0], "fp4", shape, chosen[1])


def _rounded(layer: Layer, rows: Floats, importance: Floats) -> Floats | None:
    chosen = _scales(rows, importance)
    return None if chosen is None else quantised(rows, chosen[0], to_e2m1) * spread(chosen[0], rows.shape[1])
