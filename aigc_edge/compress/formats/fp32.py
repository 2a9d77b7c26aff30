"""float32: the network as it was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import FORMATS, Format, Progress
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.report import CompressionReport


@FORMATS.register("fp32")
@dataclass(frozen=True)
class Fp32(Format):
    """Weights and arithmetic in float32; the reference that other formats are compared with."""

    name: ClassVar[str] = "fp32"

    def converted(
        self, source: Path, calibration: Calibration | None, progress: Progress, threads: int
    ) -> tuple[onnx.ModelProto, CompressionReport]:
        model = graph.load(source)
        progress(self.name, 1, 1)
        return model, CompressionReport(self.name, source_bytes=graph.size_of(source))
