"""Formats as values: a frozen dataclass says how a network is stored and computed, a handler found by its type makes it so.

A new format is one file in this package: a dataclass with `@FORMATS.register(name)`. One with a quality budget (`Mixed`) says by
its recipe what becomes of a network; another brings a handler with `@convert.register`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aigc_edge import config
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import Registry

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is


@dataclass(frozen=True)
class Format:
    """Base of all formats; its fields are the options of the format."""

    name: ClassVar[str]
    # What text encoders and the decoders of latents are stored in beside it; None: the same. They are not calibrated.
    companion: ClassVar[str | None] = None
    expected_size: ClassVar[float] = 1.0  # share of the float32 weights' bytes that its weights take
    constant_bytes: ClassVar[int] = 4  # of an element of what is no weight: biases, tables of positions

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        """What a weight [outputs, inputs] takes with its scales, before any layer goes back to float.

        `edge` says that it is the first or the last of its network, or a table, which some formats store in a finer one.
        """
        return round(4 * outputs * inputs * self.expected_size)

    @property
    def asked(self) -> str:
        """What its layers ask of a target, by the name that targets know it by (targets/limit.py)."""
        return self.name

    def computed_in(self, operator: str, inputs: int, rows: int, edge: bool) -> str | None:
        """The type that a weight of so many inputs is multiplied in with so many rows a sample, as targets name rates; None: in
        floats. Products of two activations have no inputs.
        """
        return None


def channel_bytes(outputs: int, inputs: int) -> int:
    """A weight in 8 bits with one float32 scale a channel."""
    return outputs * (inputs + 4)


FORMATS: Registry[type[Format]] = Registry("format", "aigc_edge.compress.formats", "aigc_edge.formats")


def parse(text: str) -> Format:
    """The format that `text` names, with options behind a colon: "int8" or "int8:engine=tensorrt,psnr=35".

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


@functools.singledispatch
def convert(
    format: Format,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Convert the float32 ONNX file `source` to `format`, write it to `out` and return what was done and measured.

    Every report holds "format", "bytes" and "source_bytes"; with a calibration also "psnr" in dB against float32 from the same
    noise (None when equal) and "rows", the relative L2 error in each row. `out` is written atomically or not at all. Raises
    BudgetError when the format has a quality budget that cannot be met.
    """
    raise AigcEdgeError(f"{type(format).__name__} has no handler: register one with convert.register")
