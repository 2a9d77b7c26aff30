"""float32: the network as it was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import FORMATS, Format, Progress, convert
from aigc_edge.compress.graphs import graph


@FORMATS.register("fp32")
@dataclass(frozen=True)
class Fp32(Format):
    """Weights and arithmetic in float32; the reference that other formats are measured against."""

    name: ClassVar[str] = "fp32"


@convert.register
def _(
    format: Fp32,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    model = graph.load(source)  # also proves that it is an ONNX file
    if source.resolve() != out.resolve():
        graph.write(model, out)
    if progress is not None:
        progress("fp32", 1, 1)
    size = graph.size_of(out)
    return {"format": "fp32", "bytes": size, "source_bytes": size, "psnr": None, "rows": []}
