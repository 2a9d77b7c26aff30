"""float16: half the size; as fast as the hardware multiplies halves (GPUs do, x86 does not)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aigc_edge.compress import graph
from aigc_edge.compress.calibration import Calibration, Record, mean_square, psnr, row_errors
from aigc_edge.compress.formats import FORMATS, Format, Progress, convert
from aigc_edge.compress.half import to_half
from aigc_edge.compress.report import finite, stamped
from aigc_edge.errors import BudgetError


@FORMATS.register("fp16")
@dataclass(frozen=True)
class Fp16(Format):
    """Weights and arithmetic in half precision; normalisation, softmax and angles in float32; inputs and outputs float32."""

    name: ClassVar[str] = "fp16"
    expected_size: ClassVar[float] = 0.5
    constant_bytes: ClassVar[int] = 2


@convert.register
def _(
    format: Fp16,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    tell = progress or (lambda stage, done, total: None)
    original = graph.load(source)
    model = stamped(to_half(original), "fp16")
    tell("fp16", 1, 3 if calibration else 1)
    report: dict[str, Any] = {"format": "fp16", "source_bytes": graph.size_of(source), "psnr": None, "rows": []}
    if calibration is not None:
        records: list[Record] = []
        reference, candidate = graph.Network(original, threads=threads), graph.Network(model, threads=threads)
        wanted = calibration.run(reference, records)
        tell("fp16", 2, 3)
        error = mean_square(calibration.run(candidate), wanted)
        if not error < float("inf"):
            raise BudgetError("the network overflows in fp16 (its result is not finite): use fp32, or int8 on top of fp32")
        rows = row_errors(candidate, reference, records, calibration.program)
        report |= {"psnr": finite(psnr(error, calibration.limits)), "rows": rows}
        tell("fp16", 3, 3)
    graph.write(model, out)
    return report | {"bytes": graph.size_of(out)}
