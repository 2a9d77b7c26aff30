"""bfloat16: half the size with the range of float32, for networks that overflow in half precision (GPUs from Ampere on)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.formats.base import FORMATS, Progress, convert
from aigc_edge.compress.formats.sixteen import Sixteen
from aigc_edge.compress.graphs.half import BFLOAT16
from aigc_edge.compress.graphs.opset import raise_opset
from aigc_edge.compress.proving.mixture import Mixed, compress


@FORMATS.register("bf16")
@dataclass(frozen=True)
class Bf16(Mixed):
    """Weights and arithmetic in bfloat16; normalisation, softmax and angles in float32; inputs and outputs float32."""

    name: ClassVar[str] = "bf16"
    least_sm: ClassVar[int] = 80
    engines: ClassVar[tuple[str, ...]] = ("openvino", "tensorrt")  # onnxruntime has no bfloat16 kernels on a CPU
    expected_psnr: ClassVar[float] = 30.0
    expected_size: ClassVar[float] = 0.5
    constant_bytes: ClassVar[int] = 2

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return 2 * outputs * inputs


@convert.register
def _(
    format: Bf16,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    # Convolutions in bfloat16 came with opset 22.
    return compress(
        format, lambda model, _: Sixteen("bf16", raise_opset(model, 22), BFLOAT16), source, out, calibration, progress, threads
    )
