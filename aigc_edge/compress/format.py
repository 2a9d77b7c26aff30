"""Formats as values: a frozen dataclass holds the options of a format, and its method `convert` applies it to an ONNX file.

To add a format, add one file to `aigc_edge/compress/formats/` with a dataclass decorated by `@FORMATS.register(name)`; other
distributions use the entry point `aigc_edge.formats`. A format with a quality budget derives from
`recipes.mixed_precision.MixedPrecision` and implements `recipe`; any other derives from `Format` and implements `converted`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx

from aigc_edge import config
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.report import CompressionReport
from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import Registry

Progress = Callable[[str, int, int], None]  # stage, units done, units in all


@dataclass(frozen=True)
class Format(ABC):
    """Base of all formats; the fields are the options of the format."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("fp32",)  # numeric formats of layers that an engine must run: see Engine.features
    least_sm: ClassVar[int] = 0  # compute capability, times ten, that GPUs need beyond that
    # The weight-only format of text encoders and latent decoders that are not in the format itself; None: the same format.
    companion: ClassVar[str | None] = None
    expected_size: ClassVar[float] = 1.0  # bytes of its weights relative to float32
    constant_bytes: ClassVar[int] = 4  # per element of constants other than weights: biases, position tables

    def convert(
        self,
        source: Path,
        out: Path,
        calibration: Calibration | None = None,
        *,
        progress: Progress | None = None,
        threads: int = 1,
    ) -> CompressionReport:
        """Convert the float32 ONNX file `source` to this format and write it to `out`, atomically or not at all.

        Raises BudgetError when the format has a quality budget that cannot be met, and AigcEdgeError for a file or calibration
        data that cannot be used.
        """
        model, report = self.converted(source, calibration, progress or (lambda stage, done, total: None), threads)
        graph.write(model, out)
        report.bytes = graph.size_of(out)
        return report

    @abstractmethod
    def converted(
        self, source: Path, calibration: Calibration | None, progress: Progress, threads: int
    ) -> tuple[onnx.ModelProto, CompressionReport]:
        """The converted model, and its report without the size of the file."""

    def require(self, calibration: Calibration | None) -> Calibration:
        """`calibration`, when there is enough of it to calibrate and to evaluate; raises AigcEdgeError otherwise."""
        count = 0 if calibration is None else len(calibration.latents)
        if calibration is None or count < 2:
            raise AigcEdgeError(
                f"{self.name} needs calibration data of at least 2 samples, one to calibrate on and one to evaluate on, {count} "
                "given: use Calibration.draw, which makes it from a sampling program"
            )
        return calibration

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        """Bytes of a weight [outputs, inputs] with its scales, when no layer falls back to float.

        `edge`: it belongs to the first or last layer, or is an embedding table, which some formats store in more bits.
        """
        return round(4 * outputs * inputs * self.expected_size)

    @property
    def everywhere(self) -> bool:
        """Whether text encoders and latent decoders are converted to the format itself too, calibrated on their own inputs, and
        to its companion only where the quality gate does not hold."""
        return False

    @property
    def asked(self) -> str:
        """What its layers require of a target, by the name that engines know it by (Engine.features)."""
        return self.name

    def computed_in(self, operator: str, inputs: int, rows: int, edge: bool) -> str | None:
        """The data type, as targets name their rates, in which a weight with `inputs` inputs is multiplied; None: float.

        `rows` is the number of rows per sample. Matrix products of two activations have no inputs.
        """
        return None


def channel_bytes(outputs: int, inputs: int) -> int:
    """Bytes of an 8-bit weight with one float32 scale per output channel."""
    return outputs * (inputs + 4)


FORMATS: Registry[type[Format]] = Registry("format", "aigc_edge.compress.formats", "aigc_edge.formats", Format)


def parse(text: str) -> Format:
    """Parse a format name with optional options: "int8" or "int8:engine=tensorrt,psnr=35".

    Raises AigcEdgeError for an unknown format or option, or a value that the option does not allow.
    """
    name, _, rest = text.partition(":")
    cls = FORMATS[name]
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise AigcEdgeError(f"{pair!r} is no option of format {name!r}: write option=value, several with commas between")
        options[key.strip()] = _value(value.strip())
    return config.from_dict(cls, options, f"{name} options")


def _value(text: str) -> bool | float | int | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
