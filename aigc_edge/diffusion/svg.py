"""A program as an SVG picture, written as plain text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from aigc_edge.diffusion.program import Program

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 640, 180, 70, 40, 50
_COLOURS = ("#1f5fa8", "#c0501f", "#3a8a3a", "#7a4aa0")


def plot(program: Program) -> str:
    """`program` as an SVG document: sigma of each row, then |c_skip|, |c_out| and the sum of |after| of slot 0, on log scales.

    A sum far above 1 means that large terms cancel in that row, at the cost of float32 precision.
    """
    weights = [sum(abs(v) for v in row.after[0]) for row in program.rows]
    panels = [
        ("sigma", {"sigma": [row.sigma for row in program.rows]}),
        (
            "coefficients",
            {
                "|c_skip|": [abs(row.c_skip) for row in program.rows],
                "|c_out|": [abs(row.c_out) for row in program.rows],
                "sum of |after| of slot 0": weights,
            },
        ),
    ]
    parts = [_panel(title, lines, _TOP + i * (_HEIGHT + _GAP)) for i, (title, lines) in enumerate(panels)]
    size = f'width="{_LEFT + _WIDTH + 20}" height="{_TOP + len(panels) * (_HEIGHT + _GAP)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    title = (
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(program.name)}: {program.nfe} evaluations, {program.slots} slots</text>'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', title, *parts, "</svg>"])


def _panel(title: str, lines: Mapping[str, Sequence[float]], top: int) -> str:
    positive = [v for values in lines.values() for v in values if v > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    count = max(len(values) for values in lines.values())

    def place(index: int, value: float) -> str:
        x = _LEFT + _WIDTH * (index + 0.5) / max(count, 1)
        y = top + _HEIGHT * (high - math.log10(value)) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>']
    for power in range(low, high + 1, max(1, (high - low) // 5)):
        y = top + _HEIGHT * (high - power) / (high - low)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for number, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(place(i, v) for i, v in enumerate(values) if v > 0)
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{points}"/>')
        parts += [
            f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>'
            for x, y in (p.split(",") for p in points.split())
            if count <= 100
        ]
        parts.append(f'<text x="{_LEFT + 8 + 170 * number}" y="{top - 6}" fill="{colour}">{escape(name)}</text>')
    parts.append(f'<text x="{_LEFT + _WIDTH / 2}" y="{top + _HEIGHT + 16}" text-anchor="middle">row ({escape(title)})</text>')
    return "\n".join(parts)
