"""Charts of the report: one bar per layer, the error of each row, and the ranges along the trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_edge.pages.svg import Scale, element, label, picture, tick_text
from aigc_edge.report.facts import LayerFacts
from aigc_edge.text import size

WIDTH, ROW, NAMES = 980, 16, 330
FLOATS = ("fp32", "fp16", "bf16")
MOST_LAYERS, MOST_RANGES = 400, 120
COLOURS = 8  # of lines, c0 … c7 in page.css


def layers(facts: Sequence[LayerFacts]) -> str:
    """Every layer in order of execution: the error of quantising it alone (log scale, coloured by format), and its bytes."""
    shown = list(facts)[:MOST_LAYERS]
    errors = [layer.error for layer in shown if layer.error and math.isfinite(layer.error)]
    low, high = (math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))) if errors else (-4, 0)
    high = max(high, low + 1)
    across = Scale(low, high, NAMES, 700)
    largest = max((layer.bytes for layer in shown), default=1) or 1
    weights = Scale(0, largest, 760, WIDTH - 90)
    top, height = 30, 30 + ROW * len(shown) + 26
    parts = []
    for power in range(low, high + 1):
        x = across(power)
        parts.append(element("line", x1=x, x2=x, y1=float(top - 4), y2=float(height - 24), class_="grid"))
        parts.append(label(x, height - 8, f"{10.0**power:g}", "tick", "middle"))
    parts.append(label(NAMES, 14, "error of the final sample, this layer alone (relative L2)", "note"))
    parts.append(label(760, 14, "bytes", "note"))
    for index, layer in enumerate(shown):
        y = float(top + index * ROW)
        kind = "box" if layer.format in FLOATS else "box ours"
        parts.append(label(NAMES - 8, y + 11, _short(layer.name), "label", "end"))
        if layer.error and math.isfinite(layer.error):
            end = across(math.log10(layer.error))
            parts.append(element("rect", x=float(NAMES), y=y + 2, width=max(end - NAMES, 1.0), height=ROW - 5.0, class_=kind))
        parts.append(label(706, y + 11, layer.format, "note"))
        width = max(weights(layer.bytes) - 760, 1.0)
        parts.append(element("rect", x=760.0, y=y + 2, width=width, height=ROW - 5.0, class_=kind))
        parts.append(label(760 + width + 5, y + 11, size(layer.bytes), "note"))
    return picture(WIDTH, height, "error and bytes of every layer", *parts)


def rows(errors: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The relative L2 error of the network's output in each row of the program, one line per format.

    Up to COLOURS lines have a colour each; further ones repeat the colours with dashes.
    """
    values = [row["relative_l2"] for line in errors.values() for row in line]
    count = max(len(line) for line in errors.values())
    across, up = Scale(0, max(count - 1, 1), 76, 700), Scale(0, max(values) or 1, 210, 24)
    upright = {"text_anchor": "middle", "transform": "rotate(-90 14 117)"}
    parts = [element("text", "relative L2 error of the output", x=14, y=117, class_="note", **upright)]
    for tick in up.ticks(5):
        parts.append(element("line", x1=76.0, x2=700.0, y1=up(tick), y2=up(tick), class_="grid"))
        parts.append(label(70, up(tick) + 4, tick_text(tick), "tick", "end"))
    for tick in Scale(0, max(count - 1, 1), 0, 1).ticks(10):
        parts.append(label(across(tick), 230, tick_text(tick), "tick", "middle"))
    for index, (name, line) in enumerate(errors.items()):
        points = [f"{across(i):.1f},{up(row['relative_l2']):.1f}" for i, row in enumerate(line)]
        dashes = {"stroke_dasharray": f"{max(6 // (index // COLOURS), 1)} 3"} if index >= COLOURS else {}
        style = f"fill: none; stroke: var(--c{index % COLOURS}); stroke-width: 2.5"
        y = 36.0 + 18 * index
        parts.append(element("polyline", points=" ".join(points), style=style, **dashes))
        parts.append(element("line", x1=714.0, x2=736.0, y1=y, y2=y, style=style, **dashes))
        parts.append(label(742, y + 4, name, "strong"))
    parts.append(label(388, 246, "row of the program, from noise to image", "note", "middle"))
    return picture(WIDTH, max(252, 36 + 18 * len(errors)), "error of the network in each row", *parts)


def ranges(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """The share of its calibrated range that each tensor uses in each row; light cells waste quantisation levels."""
    shown = dict(list(tensors.items())[:MOST_RANGES])
    columns = sorted({int(row) for tensor in shown.values() for row in tensor["rows"]})
    cell = min(28.0, (WIDTH - NAMES - 20) / max(len(columns), 1))
    top, height = 24, 24 + ROW * len(shown) + 8
    parts = [label(NAMES, 14, "row of the program, from noise to image: share of the calibrated range in use", "note")]
    for index, (name, tensor) in enumerate(shown.items()):
        y = float(top + index * ROW)
        parts.append(label(NAMES - 8, y + 11, _short(name), "label", "end"))
        whole = max(abs(tensor["low"]), abs(tensor["high"])) or 1.0
        for column, row in enumerate(columns):
            ends = tensor["rows"].get(str(row))
            if ends is None:
                continue
            share = min(max(abs(ends[0]), abs(ends[1])) / whole, 1.0)
            style = f"fill: var(--ours); fill-opacity: {0.06 + 0.94 * share:.3f}"
            title = element("title", f"row {row}: {ends[0]:.3g} … {ends[1]:.3g} of {tensor['low']:.3g} … {tensor['high']:.3g}")
            parts.append(element("rect", title, x=NAMES + column * cell, y=y, width=cell - 1.5, height=ROW - 2.0, style=style))
    return picture(WIDTH, height, "ranges along the trajectory", *parts)


def _short(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
