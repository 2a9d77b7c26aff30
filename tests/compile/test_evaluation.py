"""A format that misses its budget is converted again with more layers in float, until it holds or nothing helps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.compile import evaluation, sensitivity
from aigc_edge.compress.budget import Budget
from aigc_edge.compress.format import parse
from aigc_edge.errors import BudgetError

LAYERS = {"stem": {"error": 0.1}, "head": {"error": 0.4}}


class Case:
    """A compilation whose format reaches `gain` dB more than it was converted to hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, format: str, budget: Budget, gain: float) -> None:
        self.asked: list[float] = []
        self.gain = gain
        parsed = parse(format)
        self.work: Any = SimpleNamespace(
            request=SimpleNamespace(formats={parsed.name: parsed}, derived=[parsed.name], budget=budget, seed=0, threads=1),
            reports={},
            details={},
            quality={},
            failed={},
            inputs=SampleInputs(),
            main="decoder",
            components={},
            programs={"euler-2": SimpleNamespace(rows=())},
            files={},
            judge=None,
            default_program="euler-2",
            start=lambda stage: None,
            advance=lambda *_: None,
            draft=lambda formats: formats[0],
            num_classes=0,
            prompts=(),
            manifest=Manifest(),
            networks={},
            stored={},
        )
        self.convert(self.work, parsed)
        monkeypatch.setattr(evaluation, "convert_format", self.convert)
        monkeypatch.setattr(evaluation, "Evaluator", lambda *_, **__: SimpleNamespace(score=self.score))

    def convert(self, work: Any, format: Any, weight_only: Any = ()) -> None:
        self.asked.append(getattr(format, "psnr", 0.0))
        work.reports[format.name] = {"denoiser": {"psnr": self.asked[-1], "nodes": LAYERS}}

    def score(self, bundle: str, name: str, tell: Any) -> dict[str, Any]:
        psnr = self.asked[-1] + self.gain
        return {"frechet": 1.0} if name == "fp32" else {"frechet": 2.0, "psnr": psnr, "centred_l2": 10 ** (0.5 - psnr / 20)}

    def evaluate(self) -> dict[str, Any]:
        evaluation.evaluate_formats(self.work, 4)
        (name,) = self.work.request.derived
        return dict(self.work.quality[name])


def test_a_format_that_holds_is_made_once(monkeypatch):
    case = Case(monkeypatch, "int8:psnr=30", Budget(psnr=30), gain=0.5)
    assert case.evaluate()["psnr"] == 30.5
    assert case.asked == [30.0]


def test_a_miss_is_made_again_finer_until_it_holds(monkeypatch):
    case = Case(monkeypatch, "int8:psnr=30", Budget(psnr=30), gain=-3.0)
    assert case.evaluate()["psnr"] == 31.0
    assert case.asked == [30.0, 32.0, 34.0]
    assert set(case.work.files) == {"quality.json"}


def test_what_does_not_help_is_refused_by_how_much_and_by_layer(monkeypatch):
    case = Case(monkeypatch, "int8:psnr=30", Budget(psnr=30), gain=-20.0)
    with pytest.raises(BudgetError, match=r"16\.0 dB .* 30 dB .*the most sensitive layers are head .*, stem"):
        case.evaluate()
    assert case.asked == [30.0, 32.0, 34.0, 36.0]


def test_a_distance_is_held_by_finer_formats_too(monkeypatch):
    case = Case(monkeypatch, "int8:psnr=30", Budget(frechet=1.5), gain=0.0)
    with pytest.raises(BudgetError, match=r"1\.5 times the 1 of fp32"):
        case.evaluate()
    assert len(case.asked) == 1 + sensitivity.RETRIES


def test_figures_of_fp32_that_a_bundle_has_stay(monkeypatch):
    case = Case(monkeypatch, "int8:psnr=30", Budget(), gain=0.0)
    case.work.quality["fp32"] = {"frechet": 0.25, "n": 1000}
    case.evaluate()
    assert case.work.quality["fp32"] == {"frechet": 0.25, "n": 1000}


@pytest.mark.parametrize(
    ("width", "classes", "most", "drawn"),
    [(16, 10, 128, (8, 10)), (512, 0, 128, (2, 2)), (1024, 3, 4, (2, 2)), (256, 40, 64, (4, 8)), (16, 10, 4, (4, 1))],
)
def test_the_preview_is_bounded_by_its_width_and_by_its_cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int, classes: int, most: int, drawn: tuple[int, int]
) -> None:
    seen: list[int] = []

    def draw(bundle: Path, format: str, conditions_of: Any, which: Any, **options: Any) -> Any:
        seen.extend(which)
        return np.zeros((len(which), 1, 4, 4), np.float32)

    monkeypatch.setattr(evaluation, "draw", draw)
    monkeypatch.setattr(evaluation, "sample_budget", lambda work, limit, macs: min(limit, most))
    work = Case(monkeypatch, "int8w", Budget(), 0).work
    work.manifest = Manifest(output_shape=(1, width, width), default_format="fp32")
    work.num_classes, work.folder = classes, tmp_path
    evaluation.preview(work)
    columns, rows = drawn
    assert seen == [row for row in range(rows) for _ in range(columns)]
    assert work.files["preview.png"].is_file()
