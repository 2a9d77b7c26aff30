"""Text for terminals: aligned columns, human-readable numbers."""

from __future__ import annotations

from collections.abc import Sequence

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 2, right: Sequence[int] = ()) -> str:
    """Rows in columns as wide as their longest cell, two spaces apart; columns whose index is in `right` are right-aligned."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in right else text.ljust(widths[column])

    return "\n".join((" " * indent + "  ".join(cell(text, i) for i, text in enumerate(line))).rstrip() for line in lines)


def size(count: float) -> str:
    """A number of bytes in decimal units, three digits: 2_130_000 → "2.13 MB"."""
    unit = 0
    while count >= 999.5 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{digits(count)} {UNITS[unit]}"


def digits(value: float, count: int = 3) -> str:
    """A number with `count` significant digits and no exponent: 0.012345 → "0.0123", 1234.5 → "1234"."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{count - 1}e}".partition("e")[2])  # after rounding: 9.996 counts as 10.0
    return f"{value:.{max(count - 1 - exponent, 0)}f}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds with three digits and the unit."""
    return f"{digits(seconds * 1e3)} ms"
