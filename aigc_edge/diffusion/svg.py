"""A program as an SVG picture, written as plain text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from aigc_edge.diffusion.program import Program
from aigc_edge.pages.svg import Scale, element, label

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 640, 180, 70, 40, 50
_COLOURS = ("#1f5fa8", "#c0501f", "#3a8a3a")


def plot(program: Program) -> str:
    """`program` as an SVG document: sigma of each row, then |c_skip|, |c_out| and the sum of |after| of slot 0, on log scales.

    A sum far above 1 means that large terms cancel in that row, at the cost of float32 precision.
    """
    coefficients = {
        "|c_skip|": [abs(row.c_skip) for row in program.rows],
        "|c_out|": [abs(row.c_out) for row in program.rows],
        "sum of |after| of slot 0": [sum(map(abs, row.after[0])) for row in program.rows],
    }
    panels = {"sigma": {"sigma": [row.sigma for row in program.rows]}, "coefficients": coefficients}
    parts = [_panel(title, lines, _TOP + i * (_HEIGHT + _GAP)) for i, (title, lines) in enumerate(panels.items())]
    size = f'width="{_LEFT + _WIDTH + 20}" height="{_TOP + len(panels) * (_HEIGHT + _GAP)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    name = element(
        "text", escape(f"{program.name}: {program.nfe} evaluations, {program.slots} slots"), x=_LEFT, y=18, font_size=14
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', name, *parts, "</svg>"])


def _panel(title: str, lines: Mapping[str, Sequence[float]], top: int) -> str:
    logs = {name: [math.log10(v) if v > 0 else None for v in values] for name, values in lines.items()}
    finite = [v for values in logs.values() for v in values if v is not None] or [0.0]
    low, high = math.floor(min(finite)), max(math.ceil(max(finite)), math.floor(min(finite)) + 1)
    count = max(map(len, lines.values()))
    x, y = Scale(-0.5, max(count, 1) - 0.5, _LEFT, _LEFT + _WIDTH), Scale(low, high, top + _HEIGHT, top)
    parts = [element("rect", x=_LEFT, y=top, width=_WIDTH, height=_HEIGHT, fill="none", stroke="#999")]
    for power in range(low, high + 1, max(1, (high - low) // 5)):
        parts.append(element("line", x1=_LEFT, x2=_LEFT + _WIDTH, y1=y(power), y2=y(power), stroke="#ddd"))
        parts.append(label(_LEFT - 6, y(power) + 4, f"1e{power}", anchor="end"))
    for number, (name, values) in enumerate(logs.items()):
        colour = _COLOURS[number]
        points = [(x(index), y(value)) for index, value in enumerate(values) if value is not None]
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(element("polyline", fill="none", stroke=colour, points=joined))
        parts += [element("circle", cx=a, cy=b, r=2, fill=colour) for a, b in points if count <= 100]
        parts.append(element("text", escape(name), x=_LEFT + 8 + 170 * number, y=top - 6, fill=colour))
    return "\n".join([*parts, label(_LEFT + _WIDTH / 2, top + _HEIGHT + 16, f"row ({title})", anchor="middle")])
