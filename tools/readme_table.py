"""Write the README's table of measured figures from the JSON of a benchmark.

python tools/readme_table.py out/demo/bench.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_edge.bench import cells
from aigc_edge.text import digits, milliseconds, size

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- bench:begin", "<!-- bench:end -->"
HEADS = [
    "",
    "one image",
    "p90",
    "images/s",
    "aigc-edge against it",
    "network",
    "peak memory",
    "cold start",
    "Fréchet",
    "class acc.",
    "PSNR",
]


def markdown(figures: Mapping[str, Any]) -> str:
    """The table, and one line that says on what and how it was measured."""
    large = cells.large(figures)
    lines = [HEADS, ["---", *["--:"] * (len(HEADS) - 1)]]
    for row in figures["configurations"]:
        one, quality = row["latency"]["1"], row.get("quality")
        distance, interval = cells.frechet(quality)
        comparison = cells.against(figures, row)
        faster = cells.NONE
        if comparison:
            faster = f"{digits(comparison['ratio'])}×" if row["way"] == "network" else cells.verdict(comparison)
        line = [f"**{cells.name(row)}**" if row["way"] == "native" else cells.name(row)]
        line += [
            milliseconds(one["median"]),
            cells.p90(one),
            f"{cells.rate(one)}, {cells.rate(row['latency'][large])} at {large}",
        ]
        line += [faster, size(row["bytes"]["networks"]), cells.memory(row), cells.cold(row)]
        line += [f"{distance} ({interval})" if interval else distance, cells.accuracy(quality), cells.likeness(row)]
        lines.append(line)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{note(figures)}"


def note(figures: Mapping[str, Any]) -> str:
    """On what and how it was measured."""
    settings, machine = figures["settings"], figures["machine"]
    native = cells.natives(figures)
    outside = " and ".join(f"{cells.outside(row)} ({row['format']})" for row in native)
    judge = next((row["quality"]["judge_accuracy"] for row in native if row.get("quality")), None)
    scored = (
        f" {settings['quality_images']} images a format, judged by a classifier of {judge:.1%} held-out accuracy."
        if judge
        else ""
    )
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    return (
        f"{settings['solver']}, {settings['steps']} steps, guidance {settings['guidance_scale']:g}, {threads} "
        f"on {machine['cpu']} ({machine['cores']} cores, {machine['system']}), "
        f"onnxruntime {machine['versions'].get('onnxruntime', '?')}; medians of "
        f"{settings['rounds']['1']} interleaved rounds.{scored} "
        f"Of the native loop's time {outside} is spent outside the network."
    )


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("readme_table: give the JSON file of one benchmark", file=sys.stderr)
        return 2
    figures = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    first, _, rest = rest.partition("\n")
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}{first}\n{markdown(figures)}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
