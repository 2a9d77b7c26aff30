"""INT4 weights in blocks along the inputs, with activation-aware scaling (Lin et al. 2023, AWQ); arithmetic in float."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx

from aigc_edge.compress.blocks import Blocks
from aigc_edge.compress.calibration import Calibration
from aigc_edge.compress.formats import FORMATS, Progress, convert
from aigc_edge.compress.graph import Layer
from aigc_edge.compress.mixture import compress
from aigc_edge.compress.packing import blocked, int8_channels
from aigc_edge.compress.proof import Proof
from aigc_edge.compress.rewrite import Change
from aigc_edge.compress.rounding import Floats, best_scales, block_of, quantised, spread, to_int
from aigc_edge.compress.stored import Stored
from aigc_edge.config import option

SHRINK = (1.0, 0.92, 0.84, 0.76, 0.68)
_ROUND = to_int(4)


@FORMATS.register("int4")
@dataclass(frozen=True)
class Int4(Stored):
    """Weights as integers −7 … 7 with one scale a block; a row that no block divides takes a smaller one, of at least 16.

    What not even that divides, embedding tables, and the first and the last layer (few bytes, much of the error) are stored in 8
    bits.
    """

    name: ClassVar[str] = "int4"
    least_sm: ClassVar[int] = 80
    calibrates: ClassVar[bool] = True
    expected_psnr: ClassVar[float] = 25.0
    expected_size: ClassVar[float] = 0.16

    psnr: float = option(25.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    block: int = option(64, "inputs that share a scale", choices=(16, 32, 64, 128))
    scaled: bool = option(True, "scale input channels by what they carry (AWQ)")


class _Recipe(Blocks):
    def __init__(self, format: Int4, model: onnx.ModelProto, proof: Proof | None) -> None:
        def scales_of(rows: Floats, importance: Floats | None) -> Floats | None:
            block = block_of(rows.shape[1], format.block)
            return best_scales(rows, block, 7, _ROUND, shrink=SHRINK, importance=importance) if block else None

        def pack(layer: Layer, rows: Floats, importance: Floats | None, shape: tuple[int, ...]) -> Change | None:
            scales = scales_of(rows, importance)
            return None if scales is None else blocked(layer, quantised(rows, scales, _ROUND), scales, "int4", shape)

        def rounded(layer: Layer, rows: Floats, importance: Floats) -> Floats | None:
            scales = scales_of(rows, importance)
            return None if scales is None else quantised(rows, scales, _ROUND) * spread(scales, rows.shape[1])

        self.estimator = "awq" if format.scaled else "mse"
        super().__init__(
            format, model, proof,
            pack=pack, other=int8_channels, rounded=rounded, opset=21, other_name="int8w", scaled=format.scaled,
        )  # fmt: skip


@convert.register
def _(
    format: Int4,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    return compress(format, lambda model, proof: _Recipe(format, model, proof), source, out, calibration, progress, threads)
