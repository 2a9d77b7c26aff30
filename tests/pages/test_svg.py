"""Scales and ticks by their definition, plots by what they must show."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from aigc_edge.bench import charts
from aigc_edge.pages.svg import Scale, element, picture, tick_text


def test_scale_is_linear(rng: np.random.Generator) -> None:
    low, span, start, end = rng.normal(), rng.uniform(0.1, 9), rng.normal(), rng.normal()
    scale, share = Scale(low, low + span, start, end), rng.uniform()
    assert scale(low + share * span) == pytest.approx(start + share * (end - start))
    assert Scale(1.0, 1.0, 0.0, 10.0)(1.0) == 5.0


def test_ticks_are_round_evenly_spaced_and_inside(rng: np.random.Generator) -> None:
    for _ in range(200):
        low = float(rng.normal() * 10 ** rng.uniform(-3, 3))
        scale = Scale(low, low + float(10 ** rng.uniform(-3, 5)), 0, 1)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 8
        assert scale.low - 1e-9 * abs(low) <= ticks[0]
        assert ticks[-1] <= scale.high * (1 + 1e-9) + 1e-9
        steps = np.diff(ticks)
        assert np.allclose(steps, steps[0], rtol=1e-6)
        mantissa = steps[0] / 10.0 ** math.floor(math.log10(steps[0]) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-6


def test_ticks_read_well() -> None:
    assert [tick_text(t) for t in Scale(0, 1.2, 0, 1).ticks()] == ["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2"]
    assert tick_text(20000.0) == "20000"


def test_text_is_escaped() -> None:
    shown = picture(10, 10, 'a < b & "c"', element("rect", class_='x"y'))
    tree = ElementTree.fromstring(shown)
    assert tree[0].text == 'a < b & "c"'
    assert tree[1].get("class") == 'x"y'


def test_every_sample_is_drawn_or_counted(rng: np.random.Generator) -> None:
    slow = [*rng.uniform(1, 2, 60).tolist(), 90.0, 91.5]  # two far outliers
    shown = charts.distributions([charts.ChartRow("ours", True, slow), charts.ChartRow("peer", False, [1.5] * 7)], "ms", "t")
    tree = ElementTree.fromstring(shown)
    dots = [e for e in tree.iter("circle")]
    beyond = sum(int(n) for n in re.findall(r"\+(\d+) to", shown))
    assert len(dots) + beyond == 69
    assert "+2 to 92" in shown
    assert "ours" in shown


def test_a_ratio_is_drawn_right_of_one_when_it_is_above_one() -> None:
    rows = [
        charts.Ratio("up", 1.3, [1.2, 1.4], [1.1, 1.5], "FASTER"),
        charts.Ratio("down", 0.8, [0.7, 0.9], [0.6, 1.0], "SLOWER"),
    ]
    tree = ElementTree.fromstring(charts.ratios(rows, "t"))
    one = next(float(e.get("x1", "nan")) for e in tree.iter("line") if e.get("class") == "one")
    up, down = [float(e.get("cx", "nan")) for e in tree.iter("circle")]
    assert down < one < up


def test_stacked_parts_follow_each_other_without_gap(rng: np.random.Generator) -> None:
    values = rng.uniform(0.1, 1, 4).tolist()
    tree = ElementTree.fromstring(charts.stacked([charts.ChartRow("x", True, values)], ["a", "b", "c", "d"], "s", "t"))
    bars = [(float(e.get("x", "nan")), float(e.get("width", "nan"))) for e in tree.iter("rect") if e.get("height") == "20.00"]
    assert [wide / bars[0][1] for _, wide in bars] == pytest.approx([v / values[0] for v in values], rel=0.02)
    for (x, wide), (following, _) in itertools.pairwise(bars):
        assert x + wide == pytest.approx(following, abs=0.02)


def test_the_plane_puts_lower_distance_lower() -> None:
    points = [charts.Point("good", 10, 1.0, 0.9, 1.1), charts.Point("bad", 5, 3.0, 2.5, 3.5)]
    tree = ElementTree.fromstring(charts.plane(points, "ms", "d", "t", floor=0.5, floor_name="real"))
    good, bad = list(tree.iter("circle"))
    assert float(good.get("cy", "nan")) > float(bad.get("cy", "nan"))  # y grows downwards
    assert float(good.get("cx", "nan")) > float(bad.get("cx", "nan"))
