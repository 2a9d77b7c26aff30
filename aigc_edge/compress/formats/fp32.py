"""float32: the network as it was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import FORMATS, Format, Progress
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.report import CompressionReport


@FORMATS.register("fp32")
@dataclass(frozen=True)
class Fp32(Format):
    """Weights and arithmetic in float32; the reference that other formats are compared with."""

    name: ClassVar[str] = "fp32"

    def convert(
        self,
        source: Path,
        out: Path,
        calibration: Calibration | None = None,
        *,
        progress: Progress | None = None,
        threads: int = 1,
    ) -> CompressionReport:
        model = graph.load(source)  # also checks that it is an ONNX file
        if source.resolve() != out.resolve():
            graph.write(model, out)
        if progress is not None:
            progress("fp32", 1, 1)
        size = graph.size_of(out)
        return CompressionReport(self.name, source_bytes=size, bytes=size)
