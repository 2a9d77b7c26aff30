"""Writes the table of formats against targets into README.md: python tools/readme_formats.py (--check: is it there)."""

from __future__ import annotations

import sys
from pathlib import Path

from aigc_edge import targets
from aigc_edge.compress.format import FORMATS, parse

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- formats:begin", "<!-- formats:end -->"
SHAPE = (1024, 1024)  # of a weight, for the column of sizes
COLUMNS = {
    "x86": "x86-cpu",
    "Arm": "arm-cpu",
    "Orin": "jetson-orin-agx",
    "Thor": "jetson-thor",
    "RTX 20": "rtx-20",
    "RTX 30": "rtx-30",
    "RTX 40": "rtx-40",
    "RTX 50": "rtx-50",
    "A100": "a100",
    "L4, L40S": "l4",
    "H100, H200": "h100",
    "B200": "b200",
}


def markdown() -> str:
    """A row a format: its size against fp32, then whether each target runs it."""
    lines = [["", "bytes of fp32", *COLUMNS], ["---", "--:", *[":-:"] * len(COLUMNS)]]
    found = {column: targets.get(name) for column, name in COLUMNS.items()}
    sizes = {name: parse(name).weight_bytes(*SHAPE, False) / (4 * SHAPE[0] * SHAPE[1]) for name in FORMATS}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        runs = [("yes" if name in target.precisions else "–") for target in found.values()]
        lines.append([f"`{name}`", f"{sizes[name]:.3g} ×", *runs])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str]) -> int:
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    first, _, rest = rest.partition("\n")
    old, _, after = rest.partition(END)
    made = f"{markdown()}\n"
    if arguments == ["--check"]:
        return 0 if old == made else 1
    README.write_text(f"{before}{BEGIN}{first}\n{made}{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
