"""The benchmark as text for a terminal and as one self-contained HTML page with plots and samples."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench import cells, page
from aigc_edge.bench.runner import Workload, key, opened
from aigc_edge.bench.runners.native import Native
from aigc_edge.files import atomic_file
from aigc_edge.images import grid, write_png
from aigc_edge.text import milliseconds, size, table

Figures = Mapping[str, Any]
ROWS, COLUMNS = 10, 8  # of the sample grids
AMPLIFY = 4


def text(figures: Figures) -> str:
    """The main figures as a table for a terminal."""
    large = cells.large(figures)
    columns: dict[str, Callable[[Figures], str]] = {
        "": cells.name,
        "median": lambda row: milliseconds(row["latency"]["1"]["median"]),
        "p90": lambda row: cells.p90(row["latency"]["1"]),
        "quartiles ms": lambda row: cells.spread(row["latency"]["1"]),
        "img/s": lambda row: cells.rate(row["latency"]["1"]),
        f"img/s b{large}": lambda row: cells.rate(row["latency"][large]),
        "memory": cells.memory,
        "size": lambda row: size(row["bytes"]["networks"]),
        "cold": cells.cold,
        "Fréchet": lambda row: cells.frechet(row.get("quality"))[0],
        "class acc.": lambda row: cells.accuracy(row.get("quality")),
        "PSNR": cells.likeness,
    }
    rows = [[cell(row) for cell in columns.values()] for row in figures["configurations"]]
    lines = [table(list(columns), rows, indent=0, right=range(1, len(columns))), ""]
    for row in figures["configurations"]:
        if comparison := cells.against(figures, row):
            lines.append(f"native {row['format']} against {cells.name(row)}: {cells.verdict(comparison)}")
    for row in cells.natives(figures):
        if "outside_network" not in row["latency"]["1"]:  # one CUDA graph, which has no parts
            continue
        shares = f"{cells.outside(row)} of the loop's time and {cells.outside(row, 'call')} of the whole call's"
        lines.append(f"native {row['format']}, batch 1: {shares} is spent outside the network")
    for row in cells.natives(figures):
        if len(row.get("components") or ()) > 1:
            lines.append(f"native {row['format']}, batch 1, inside the networks: {cells.components(row)}")
    lines += [f"{runner} was left out: {reason}" for runner, reason in figures["left_out"].items()]
    warning = cells.warning(figures)
    return "\n".join(lines + ([f"warning: {warning}"] if warning else []))


def sample_grids(workload: Workload, formats: list[str]) -> dict[str, bytes]:
    """Caption → PNG of native samples, one row a class, the same seeds in every format; and how far each is from the first."""
    rows = min(workload.classes or ROWS, ROWS)
    labels = np.repeat(np.arange(rows), COLUMNS) if workload.classes else None
    with opened(workload, [key(Native, format) for format in formats]) as runners:
        drawn = [runner.generate(rows * COLUMNS, 0, labels) for runner in runners.values()]
    pictures = dict(zip(formats, drawn, strict=True))
    for format, images in zip(formats[1:], drawn[1:], strict=True):
        apart = AMPLIFY * np.abs(drawn[0].astype(np.int16) - images.astype(np.int16))
        pictures[f"{formats[0]} and {format} apart, {AMPLIFY} times as strong"] = np.clip(apart, 0, 255).astype(np.uint8)
    return {caption: _png(grid(images, columns=COLUMNS)) for caption, images in pictures.items()}


def _png(picture: NDArray[np.uint8]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.png"
        write_png(file, picture)
        return file.read_bytes()


def write_html(path: str | os.PathLike[str], figures: Figures, workload: Workload) -> None:
    """Write the report, whole or not at all; the samples in it are drawn anew from the bundle."""
    formats = [str(row["format"]) for row in cells.natives(figures)]
    pictures = {name: base64.b64encode(png).decode("ascii") for name, png in sample_grids(workload, formats).items()}
    with atomic_file(path) as part:
        part.write_text(page.build(figures, pictures), encoding="utf-8")
