"""The picture of a program: valid SVG whose points stand where the numbers are."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from aigc_edge.diffusion import Program, build, plot

NAME = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp_sde"])
def test_sigmas_stand_on_a_log_scale(solver: str) -> None:
    program = build({"prediction": "edm"}, solver, 12)
    root = ElementTree.fromstring(plot(program))
    lines = root.findall(f"{NAME}polyline")
    assert len(lines) == 4
    points = [tuple(map(float, p.split(","))) for p in lines[0].attrib["points"].split()]
    assert len(points) == program.nfe
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    logs = [math.log10(row.sigma) for row in program.rows]
    scale = (points[-1][1] - points[0][1]) / (logs[-1] - logs[0])
    for (_, y), value in zip(points, logs, strict=True):
        assert y == pytest.approx(points[0][1] + scale * (value - logs[0]), abs=0.11)  # one decimal


def test_names_are_escaped_and_no_rows_are_fine() -> None:
    text = plot(Program("<a & b>", 1, 1.0, ()))
    assert "<a & b>" not in text
    assert ElementTree.fromstring(text).findall(f"{NAME}polyline")[0].attrib["points"] == ""
