"""The plots of the report, each a function from figures to an inline SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aigc_edge.pages.svg import Scale, element, label, picture, tick_text
from aigc_edge.text import digits

WIDE, HALF = 1080, 520  # widths of a picture: the whole page, or one of two columns
LEFT, RIGHT, ROW, AXIS = 170, 24, 34, 42


def _axis(scale: Scale, top: float, bottom: float, unit: str) -> str:
    """Vertical grid lines with their numbers below, and the unit under them."""
    parts = []
    for tick in scale.ticks(5 if scale.end < HALF else 8):
        x = scale(tick)
        parts.append(element("line", x1=x, x2=x, y1=float(top), y2=float(bottom), class_="grid"))
        parts.append(label(x, bottom + 16, tick_text(tick), "tick", "middle"))
    parts.append(label((scale.start + scale.end) / 2, bottom + 34, unit, "tick", "middle"))
    return "".join(parts)


@dataclass(frozen=True)
class ChartRow:
    """One line of a chart: its label, whether it is ours, and its numbers."""

    name: str
    ours: bool
    values: Sequence[float]


def distributions(rows: Sequence[ChartRow], unit: str, title: str) -> str:
    """All samples as dots, quartiles as a box, the median as a line; what lies beyond the axis is counted, not dropped."""
    highest = max(float(np.quantile(row.values, 0.95)) for row in rows)
    scale = Scale(0.0, highest * 1.12, LEFT, WIDE - RIGHT - 64)
    bottom = len(rows) * ROW + 8
    parts = [_axis(scale, 4, bottom, unit)]
    jitter = np.random.default_rng(0)
    for index, row in enumerate(rows):
        middle, kind = index * ROW + ROW / 2 + 4, "ours" if row.ours else "peer"
        q1, median, q3 = (float(q) for q in np.quantile(row.values, [0.25, 0.5, 0.75]))
        inside = [v for v in row.values if v <= scale.high]
        parts.append(label(LEFT - 12, middle + 4, row.name, "label", "end"))
        for value in inside:
            y = middle + float(jitter.uniform(-8, 8))
            parts.append(element("circle", cx=scale(value), cy=y, r=1.8, class_=f"dot {kind}"))
        wide = max(scale(q3) - scale(q1), 1.5)
        parts.append(element("rect", x=scale(q1), y=middle - 10, width=wide, height=20.0, class_=f"box {kind}", rx=2))
        parts.append(element("line", x1=scale(median), x2=scale(median), y1=middle - 12, y2=middle + 12, class_=f"median {kind}"))
        beyond = len(row.values) - len(inside)
        if beyond:
            parts.append(label(WIDE - RIGHT - 58, middle + 4, f"+{beyond} to {digits(max(row.values), 2)}", "note"))
    return picture(WIDE, bottom + AXIS, title, *parts)


@dataclass(frozen=True)
class Ratio:
    """A paired comparison: the median ratio with its 95 % interval and quartiles."""

    name: str
    ratio: float
    interval: Sequence[float]
    quartiles: Sequence[float]
    verdict: str


def ratios(rows: Sequence[Ratio], title: str) -> str:
    """Ratios on one line each; thick is the interval of the median, thin the quartiles of the rounds; 1 is drawn through."""
    high = max(max(row.quartiles[1], row.interval[1]) for row in rows)
    low = min(min(row.quartiles[0], row.interval[0]) for row in rows)
    scale = Scale(min(0.9, low * 0.97), max(1.1, high * 1.05), LEFT + 110, WIDE - RIGHT - 150)
    bottom = len(rows) * ROW + 8
    parts = [_axis(scale, 4, bottom, "times as fast (right of 1: aigc-edge is faster)")]
    parts.append(element("line", x1=scale(1.0), x2=scale(1.0), y1=4, y2=bottom, class_="one"))
    for index, row in enumerate(rows):
        y = index * ROW + ROW / 2 + 4
        q1, q3 = row.quartiles
        parts.append(label(LEFT + 98, y + 4, row.name, "label", "end"))
        parts.append(element("line", x1=scale(q1), x2=scale(q3), y1=y, y2=y, class_="thin"))
        parts.append(element("line", x1=scale(row.interval[0]), x2=scale(row.interval[1]), y1=y, y2=y, class_="thick"))
        parts.append(element("circle", cx=scale(row.ratio), cy=y, r=4.5, class_="dot ours solid"))
        parts.append(label(WIDE - RIGHT - 138, y + 4, f"{digits(row.ratio)}×  {row.verdict.lower()}", "label"))
    return picture(WIDE, bottom + AXIS, title, *parts)


@dataclass(frozen=True)
class Point:
    """A format in the plane of latency and quality, with the interval of its quality."""

    name: str
    x: float
    y: float
    low: float
    high: float


def plane(
    points: Sequence[Point], x_title: str, y_title: str, title: str, floor: float | None = None, floor_name: str = ""
) -> str:
    """Points with vertical intervals; lower left is better. `floor` is drawn as a line: what real images score."""
    height, bottom = 300, 250
    tops = [p.high for p in points] + ([floor] if floor is not None else [])
    across = Scale(0.0, max(p.x for p in points) * 1.25, 70, WIDE - RIGHT)
    up = Scale(0.0, max(tops) * 1.15, bottom, 12)
    parts = [_axis(across, 12, bottom, x_title)]
    for tick in up.ticks(5):
        parts.append(element("line", x1=across.start, x2=across.end, y1=up(tick), y2=up(tick), class_="grid"))
        parts.append(label(62, up(tick) + 4, tick_text(tick), "tick", "end"))
    middle = (bottom + 12) / 2
    upright = {"text_anchor": "middle", "transform": f"rotate(-90 16 {middle})"}
    parts.append(element("text", y_title, x=16, y=middle, class_="tick", **upright))
    if floor is not None:
        parts.append(element("line", x1=across.start, x2=across.end, y1=up(floor), y2=up(floor), class_="floor"))
        parts.append(label(across.start + 8, up(floor) - 6, floor_name, "note"))
    for point in points:
        x = across(point.x)
        parts.append(element("line", x1=x, x2=x, y1=up(point.low), y2=up(point.high), class_="thick"))
        parts.append(element("circle", cx=x, cy=up(point.y), r=5.5, class_="dot ours solid"))
        left = point.x == min(p.x for p in points) and len(points) > 1  # labels of neighbours point away from each other
        parts.append(label(x - 12 if left else x + 12, up(point.y) + 4, point.name, "label strong", "end" if left else "start"))
    return picture(WIDE, height, title, *parts)


def stacked(rows: Sequence[ChartRow], parts_of: Sequence[str], unit: str, title: str) -> str:
    """Bars made of parts, one colour a part with a legend above; the sum stands behind each bar."""
    scale = Scale(0.0, max(sum(row.values) for row in rows) * 1.12, 150, HALF - RIGHT - 36)
    top, bottom = 30, 30 + len(rows) * ROW
    parts, x = [_axis(scale, top, bottom, unit)], scale.start
    first = 0 if len(parts_of) > 1 else 1  # a single part takes the plain colour
    for index, name in enumerate(parts_of):
        parts.append(element("rect", x=float(x), y=6.0, width=11, height=11, class_=f"part{first + index}", rx=2))
        parts.append(label(x + 16, 16, name, "tick"))
        x += 34 + 6.6 * len(name)
    for index, row in enumerate(rows):
        y, at = top + index * ROW + 7.0, scale.start
        parts.append(label(138, y + 14, row.name, "label", "end"))
        for place, value in enumerate(row.values):
            wide = scale(value) - scale.start
            parts.append(element("rect", x=at, y=y, width=wide, height=20.0, class_=f"part{first + place}"))
            at += wide
        parts.append(label(at + 6, y + 14, digits(sum(row.values)), "note"))
    return picture(HALF, bottom + AXIS, title, *parts)
