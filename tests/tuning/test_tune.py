"""Tuning a real bundle: what is written is what was measured, and what fails leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.diffusion import Program, build, format_table, reference
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.report.summary import render
from aigc_edge.tuning import tune
from aigc_edge.tuning.tune import BundleTuner, tune_bundle

FEW: dict[str, Any] = {"samples": 16, "held_out": 16, "threads": 1, "time_limit": 1.0}


@pytest.fixture(params=["folder", "packed"])
def bundle(request: pytest.FixtureRequest, own_bundle: Path, tmp_path: Path) -> Path:
    if request.param == "folder":
        return own_bundle
    Bundle.open(own_bundle, verify=True).pack(tmp_path / "packed.aigc")
    return tmp_path / "packed.aigc"


def test_a_tuned_program_is_sampled_like_any_other(bundle: Path, rng: np.random.Generator) -> None:
    before = Bundle.open(bundle).manifest.to_json()
    told: list[tuple[str, float]] = []
    made = tune_bundle(bundle, [3], **FEW, progress=lambda what, done, left: told.append((what, done)))
    after = Bundle.open(bundle, verify=True).manifest.to_json()
    assert list(made) == ["tuned-3"]
    assert {k: v for k, v in after["programs"].items() if k != "tuned-3"} == before["programs"]
    assert after["default_program"] == before["default_program"]
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1] == ("done", 1.0)
    assert not list(bundle.parent.glob("*.tuning.json"))
    program = Program.from_json(after["programs"]["tuned-3"])
    assert program == made["tuned-3"]
    assert program.meta["psnr"] > program.meta["best_standard_psnr"]
    assert {"frechet", "best_standard_frechet"} <= set(program.meta)
    assert "tuned-3: 3 evaluations (3 guided at scale 2)" in format_table(program)
    assert "tuned-3" in render(Bundle.open(bundle, verify=True).manifest)

    latents = rng.standard_normal((3, 1, 16, 16)).astype(np.float32)
    classes = np.array([1, 5, 9])
    network = BundleTuner(bundle, None, None, "onnxruntime", 1, 0).network
    wanted = reference.run(program, network, latents, classes=classes, null_class=10, dtype=np.float32)
    with aigc_edge.open(bundle, threads=1, format="fp32") as pipe:
        assert "tuned-3" in pipe.programs
        found = pipe.sample(3, classes=classes, latents=latents, program="tuned-3", output="float32")
    assert np.abs(found - wanted).max() < 1e-4


def test_figures_are_those_of_the_rows(own_bundle: Path) -> None:
    made = tune_bundle(own_bundle, [2], **FEW)["tuned-2"]
    work = BundleTuner(own_bundle, None, None, "onnxruntime", 1, 0)
    held = work.noise(16, 1)
    many = build(work.schedule, "unipc", 64, guidance_scale=2.0)
    images = []
    for program in (made, many):
        drawn = reference.run(program, work.network, held.latents, classes=held.classes, null_class=10, dtype=np.float32)
        images.append(np.clip(drawn, -1, 1))
    psnr = 10 * np.log10(4 / np.mean((images[0] - images[1]) ** 2))
    assert made.meta["psnr"] == pytest.approx(psnr, abs=0.05)
    assert made.meta["format"] == "fp32"


def test_a_default_is_asked_for(own_bundle: Path) -> None:
    tune_bundle(own_bundle, [2], **FEW, default=True, guidance_scale=1.0)
    with aigc_edge.open(own_bundle, threads=1) as pipe:
        assert pipe.programs[0] == "tuned-2-guidance-1"
        assert pipe.sample(1, seed=3).shape == (1, 16, 16, 1)
        with pytest.raises(AigcEdgeError, match="give a solver with the steps"):
            pipe.sample(1, steps=5)
        assert pipe.sample(1, steps=5, solver="ddim").shape == (1, 16, 16, 1)


def test_a_name_is_not_taken_twice(own_bundle: Path) -> None:
    small = FEW | {"time_limit": 0.01}
    first = tune_bundle(own_bundle, [2], **small)
    with pytest.raises(AigcEdgeError, match="has a program 'tuned-2' already"):
        tune_bundle(own_bundle, [3, 2], **small)
    assert "tuned-3" not in Bundle.open(own_bundle).manifest.to_json()["programs"]
    again = tune_bundle(own_bundle, [2], **small, overwrite=True, seed=5)
    assert again["tuned-2"] != first["tuned-2"]
    assert Bundle.open(own_bundle).manifest.to_json()["programs"]["tuned-2"] == again["tuned-2"].to_json()


def test_an_interrupted_call_is_gone_on_with(own_bundle: Path) -> None:
    before = Bundle.open(own_bundle).manifest.to_json()
    state = own_bundle.with_name("digits.aigc.tuning.json")

    def stop(what: str, done: float, left: float) -> None:
        if "dB" in what and len(json.loads(state.read_text())["tables"]) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_bundle(own_bundle, [2], **FEW, progress=stop)
    assert Bundle.open(own_bundle, verify=True).manifest.to_json() == before
    kept = np.array(json.loads(state.read_text())["tables"]["2"]["weights"])
    work = BundleTuner(own_bundle, None, None, "onnxruntime", 1, 0)
    assert np.array_equal(work.checkpoint.load()[2].weights, kept)
    assert BundleTuner(own_bundle, 3.0, None, "onnxruntime", 1, 0).checkpoint.load() == {}  # that was another guidance scale
    made = tune_bundle(own_bundle, [2], **FEW | {"time_limit": 1e-3})
    assert made["tuned-2"].meta["psnr"] > 10
    assert not state.exists()
    state.write_text('{"key": [], "tables": 7}')
    assert work.checkpoint.load() == {}  # nothing of use


@pytest.mark.parametrize(
    ("nfe", "options", "says"),
    [
        ([16], {}, "1 to 15"),
        ([0], {}, "1 to 15"),
        ([], {}, "1 to 15"),
        ([2, 3], {"default": True}, "only one can be the default"),
        ([2], {"guidance_scale": float("nan")}, "finite"),
        ([2], {"time_limit": -1.0}, "positive"),
        ([2], {"samples": 3}, "at least 8"),
        ([2], {"held_out": 1}, "at least 8 and 2"),
        ([2], {"samples": 10**9}, "memory"),
        ([2], {"format": "int4"}, "has no format 'int4'"),
        ([2], {"engine": "no_such"}, "no_such"),
    ],
)
def test_what_cannot_work_is_refused(nfe: list[int], options: dict[str, Any], says: str, own_bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_bundle.parent.rglob("*")}
    with pytest.raises(AigcEdgeError, match=says):
        tune_bundle(own_bundle, nfe, **FEW | options)
    assert {path: path.stat().st_mtime_ns for path in own_bundle.parent.rglob("*")} == before


def test_bundles_without_a_denoiser_are_refused(own_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        tune_bundle(tmp_path / "nothing", [8])
    one_shot = Program("one-shot", slots=1, init_scale=1.0, rows=())
    manifest = Bundle.open(own_bundle).manifest._replace(
        schedule=None, programs={"one-shot": one_shot}, default_program="one-shot"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune.Bundle, "open", lambda path: Bundle(own_bundle, manifest))
        with pytest.raises(AigcEdgeError, match="generates in one evaluation"):
            tune_bundle(own_bundle, [8])
        manifest = manifest._replace(schedule={"prediction": "edm"}, num_classes=0)
        with pytest.raises(AigcEdgeError, match="unconditional: leave the guidance scale out"):
            tune_bundle(own_bundle, [8], guidance_scale=2.0)
        manifest = manifest._replace(components={})
        with pytest.raises(AigcEdgeError, match="has no denoiser"):
            tune_bundle(own_bundle, [8])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_refused_at_once(own_bundle: Path) -> None:
    own_bundle.parent.chmod(0o500)
    try:
        with pytest.raises(AigcEdgeError, match="cannot be written"):
            tune_bundle(own_bundle, [2], **FEW)
    finally:
        own_bundle.parent.chmod(0o700)


def test_noise_is_shared_by_nothing(own_bundle: Path) -> None:
    work = BundleTuner(own_bundle, None, None, "onnxruntime", 1, 0)
    one, other, again = work.noise(64, 0), work.noise(64, 1), work.noise(16, 0)
    assert np.array_equal(one.latents[:16], again.latents)
    assert abs(float(np.mean(one.latents * other.latents))) < 0.03
    assert abs(float(one.latents.std()) - 1) < 0.02
    assert set(np.unique(one.classes)) <= set(range(10))
