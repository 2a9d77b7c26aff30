"""INT4 weights in blocks along the inputs, with activation-aware scaling (Lin et al. 2023, AWQ); arithmetic in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.packing import blocked, int8_channels
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.recipes.blockwise import BlockwiseRecipe
from aigc_edge.compress.recipes.qat import QuantisationAware
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.weight_only import WeightOnly
from aigc_edge.compress.rounding import Floats, best_scales, block_of, quantised, spread, to_int
from aigc_edge.config import option

SHRINK = (1.0, 0.92, 0.84, 0.76, 0.68)
_ROUND = to_int(4)


@FORMATS.register("int4")
@dataclass(frozen=True)
class Int4(QuantisationAware, WeightOnly):
    """Weights as integers −7 … 7 with one scale per block; rows that it does not divide use smaller blocks, of at least 16.

    Rows that not even those divide, embedding tables, and the first and last layer (few bytes, much of the error) are stored in 8
    bits.
    """

    name: ClassVar[str] = "int4"
    companion: ClassVar[str | None] = "int8w"
    requires: ClassVar[tuple[str, ...]] = ("int4",)
    expected_psnr: ClassVar[float] = 25.0
    expected_size: ClassVar[float] = 0.16

    psnr: float = option(25.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    block: int = option(64, "inputs that share a scale", choices=(16, 32, 64, 128))
    scaled: bool = option(True, "scale input channels by their activations (AWQ); false needs no calibration data")

    @property
    def calibrates(self) -> bool:
        return self.scaled

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        block = 0 if edge else block_of(inputs, self.block)
        return outputs * inputs // 2 + 4 * outputs * inputs // block if block else channel_bytes(outputs, inputs)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        four = Int4Blocks(self.block)
        return BlockwiseRecipe(
            self, model, reference, pack=four.pack, other=(int8_channels, "int8w"), rounded=four.rounded, opset=21
        )


class Int4Blocks:
    """Rows as 4-bit integers in blocks of at most `block` inputs."""

    def __init__(self, block: int) -> None:
        self.block = block

    def scales(self, rows: Floats, importance: Floats | None) -> Floats | None:
        """The scales with the least error; None when no block of at least 16 divides the rows."""
        block = block_of(rows.shape[1], self.block)
        return best_scales(rows, block, 7, _ROUND, shrink=SHRINK, importance=importance) if block else None

    def pack(self, layer: Layer, rows: Floats, importance: Floats | None, shape: tuple[int, ...]) -> Change | None:
        """The packed layer; see blockwise.PackRows."""
        scales = self.scales(rows, importance)
        return None if scales is None else blocked(layer, quantised(rows, scales, _ROUND), scales, "int4", shape)

    def rounded(self, layer: Layer, rows: Floats, importance: Floats) -> Floats | None:
        """The rounded rows; see awq.RoundRows."""
        scales = self.scales(rows, importance)
        return None if scales is None else quantised(rows, scales, _ROUND) * spread(scales, rows.shape[1])
