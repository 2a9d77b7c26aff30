"""What every network of the zoo goes through: compile to fp32 and int8, sample, compare with the publisher's result, time."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aigc_edge
from aigc_edge.compile import compile_source
from aigc_edge.errors import BudgetError
from aigc_edge.sources.base import Source

Array = NDArray[np.float32]
SECONDS = 2.0  # of each timing


@dataclass
class Row:
    """One network in the table. PSNR to the publisher's result is in dB, with the range of that result as the peak."""

    network: str
    licence: str
    shape: list[int]
    psnr: dict[str, float | None] = field(default_factory=dict)  # by format; None: equal in every bit
    error: dict[str, float] = field(default_factory=dict)  # relative L2 of what varies: without the mean of the publisher's
    milliseconds: dict[str, float] = field(default_factory=dict)  # of one sample on one thread, also of "publisher"
    megabytes: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def psnr(found: NDArray[Any], expected: NDArray[Any]) -> float | None:
    """PSNR in dB with the range of `expected` as the peak, None for equal arrays."""
    error = float(np.mean(np.square(found.astype(np.float64) - expected.astype(np.float64))))
    peak = float(expected.max()) - float(expected.min())
    return None if error == 0 else round(20 * math.log10(peak) - 10 * math.log10(error), 1)


def relative_l2(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """|found − expected| as a share of what varies in `expected`: its deviation from its mean."""
    varies = expected.astype(np.float64) - float(expected.mean(dtype=np.float64))
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(varies))


def timed(call: Callable[[], object]) -> float:
    """Median milliseconds of a call, after one that is not counted."""
    call()
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 2)


def measure(
    row: Row,
    bundle: Path,
    source: Callable[[], Source],
    latents: Array,
    expected: NDArray[Any],
    publisher: Callable[[], object],
    *,
    samples: int = 24,
    conditions: Mapping[str, Array] | None = None,
    finish: Callable[[Array], NDArray[Any]] = lambda found: found,
    **options: Any,
) -> Row:
    """Fill in `row`: samples from `latents` [N, ...], converted by `finish`, against `expected`; `publisher` is timed.

    Formats are compared on `samples` others; further `options` are those of `compile_source`.

    A bundle that an earlier run has written is used again. Where int8 misses its quality budget, that is noted and fp32 remains.
    """
    formats = ["fp32", "int8"]
    refusal = bundle.with_suffix(".int8.txt")
    if not bundle.exists():
        try:
            compile_source(source(), bundle, formats=formats, samples=samples, **options)
        except BudgetError as error:
            refusal.write_text(f"int8 was refused: {str(error).splitlines()[0]}", encoding="utf-8")
            if not bundle.exists():
                compile_source(source(), bundle, formats=["fp32"], samples=samples, **options)
    row.notes += [refusal.read_text(encoding="utf-8")] if refusal.exists() else []
    row.milliseconds["publisher"] = timed(publisher)
    one = {name: value[:1] for name, value in (conditions or {}).items()}
    for name in formats:
        if refusal.exists() and name == "int8":
            continue
        with aigc_edge.open(bundle, format=name, threads=1) as pipe:
            found = pipe.sample(len(latents), latents=latents, conditions=conditions, output="float32")
            row.psnr[name], row.error[name] = psnr(finish(found), expected), relative_l2(finish(found), expected)
            row.milliseconds[name] = timed(lambda: pipe.sample(1, latents=latents[:1], conditions=one or None, output="float32"))
            networks = [file for file in bundle.glob(f"*.{name}.onnx*")]
        row.megabytes[name] = round(sum(file.stat().st_size for file in networks) / 1e6, 2)
    return row


def load(file: Path, key: str) -> list[Row] | None:
    """The rows in a file of an earlier run with the same key; None where there are none."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return [Row(**row) for row in stored["rows"]] if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(file: Path, key: str, rows: list[Row]) -> None:
    """Write the rows for a later run."""
    file.write_text(json.dumps({"key": key, "rows": [asdict(row) for row in rows]}, indent=1), encoding="utf-8")


def table(rows: list[Row]) -> str:
    """All rows as a Markdown table."""
    lines = [
        "| network | output | fp32 to the publisher | int8 to the publisher | publisher, 1 thread | fp32 | int8 | fp32 | int8 |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:

        def decibels(name: str, row: Row = row) -> str:
            value = row.psnr.get(name, math.nan)
            if value is None or math.isnan(value):
                return "refused" if value else "equal"
            return f"{value:.1f} dB ({100 * row.error[name]:.2g} %)"

        def cell(values: Mapping[str, float], name: str, unit: str) -> str:
            value = values.get(name, math.nan)
            return "–" if math.isnan(value) else f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"

        cells = [row.network, "×".join(map(str, row.shape)), decibels("fp32"), decibels("int8")]
        cells += [cell(row.milliseconds, name, "ms") for name in ("publisher", "fp32", "int8")]
        cells += [cell(row.megabytes, name, "MB") for name in ("fp32", "int8")]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"{row.network}: {note}" for row in rows for note in row.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes])
