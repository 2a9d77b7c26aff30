"""A tiny untrained run of each family, compiled for real: the bundle tells the truth and generates what torch does."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import aigc_edge
from aigc_edge import compile as compilation
from aigc_edge import data
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.compile import calibrating, compile_source, evaluation, request
from aigc_edge.diffusion import Program, reference
from aigc_edge.engines.tensorrt import installed
from aigc_edge.errors import AigcEdgeError, BudgetError
from aigc_edge.export import split
from aigc_edge.metrics import classifier
from aigc_edge.metrics.paired import psnr, relative_l2
from aigc_edge.models.base import FAMILIES
from aigc_edge.report.summary import render

MODELS = {
    "diffusion": {"widths": [8, 16], "blocks": [1, 1], "embedding": 16, "sigma_data": 0.5},
    "gan": {},
}
SAMPLES = 48


def _write_run(folder: Path, family: str) -> Path:
    """A run folder with fresh random weights, as training would leave it."""
    from safetensors.torch import save_file

    digits = data.load("digits", 8)
    torch.manual_seed(0)
    network = FAMILIES[family].from_config({"size": 8, "channels": 1, "num_classes": 10} | MODELS[family])
    with torch.no_grad():  # a fresh UNet ends in zeros, which would make every comparison trivial
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder.mkdir()
    config = {"version": 1, "family": family, "model": network.model_config(), "data": digits.describe() | {"size": 8}}
    (folder / "config.json").write_text(json.dumps(config | {"train": {"seed": 3, "steps": 7}}))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compile")


@pytest.fixture(scope="module")
def runs(place) -> dict[str, Path]:
    found = {family: _write_run(place / family, family) for family in MODELS}
    digits = data.load("digits", 8)
    classifier.train_judge(digits.scaled(), digits.labels, found["gan"] / "judge", steps=20)
    return found


@pytest.fixture(scope="module")
def bundles(place, runs) -> dict[str, Path]:
    """Both families as fp32 and int8; the diffusion run has no judge yet, so that one is trained (shortly)."""
    patch = pytest.MonkeyPatch()
    patch.setattr(classifier, "train_judge", functools.partial(classifier.train_judge, steps=20))
    patch.setattr(calibrating, "CALIBRATION", 8)
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    targets = ["x86-cpu", "jetson-orin-nano"] + (["rtx-30"] if "tensorrt_rtx" in installed() else [])
    for family, run in runs.items():
        formats = ["fp32", "int8:psnr=0,rank=false,estimator=minmax"]
        compile_source(run, place / f"{family}.aigc", formats=formats, targets=targets, samples=SAMPLES, threads=1)
    patch.undo()
    return {family: place / f"{family}.aigc" for family in runs}


@pytest.fixture(params=list(MODELS))
def bundle(request, bundles) -> Path:
    return bundles[request.param]


def test_the_bundle_is_whole_and_describes_itself(bundle, runs):
    manifest = Bundle.open(bundle, verify=True).manifest.to_json()
    family = manifest["family"]
    stored = {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()}
    assert stored == {*manifest["files"], "manifest.json", "manifest.sha256"}
    assert manifest["name"] == family
    assert manifest["classes"] == {"count": 10, "names": [str(i) for i in range(10)]}
    assert manifest["default_format"] == "fp32"
    assert manifest["output_shape"] == [1, 8, 8]
    assert (manifest["schedule"] is None) == (family == "gan")
    assert {"aigc-edge", "torch", "onnx", "onnxruntime"} <= set(manifest["tools"])
    told = manifest["provenance"]
    assert (told["data"], told["count"], told["seed"], told["trained_steps"]) == ("digits", 1797, 3, 7)
    assert told["command"].startswith(f"aigc-edge compile {family} --format fp32 --format int8")
    assert str(bundle.parent) not in (bundle / "manifest.json").read_text()
    (note,) = manifest["notes"]
    assert "jetson-orin-nano" in note
    assert json.loads((bundle / "quality.json").read_text())["int8"]["compression"]


def test_programs_are_the_ones_that_were_asked_for(bundles):
    manifest = Bundle.open(bundles["diffusion"]).manifest.to_json()
    assert manifest["default_program"] == "dpmpp_2m-10"
    assert {"euler-10", "euler-20", "heun-10", "ddim-20", "dpmpp_2m-20"} <= set(manifest["programs"])
    for name, value in manifest["programs"].items():
        program = Program.from_json(value)
        assert program.name == name
        assert program.guidance_scale == 2.0
    one_shot = Bundle.open(bundles["gan"]).manifest.to_json()
    assert list(one_shot["programs"]) == [one_shot["default_program"]]
    assert one_shot["programs"][one_shot["default_program"]]["rows"] == []


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_it_generates_what_the_trained_network_does(bundle, runs, rng, engine):
    from aigc_edge.models.base import load_run

    manifest = Bundle.open(bundle).manifest.to_json()
    latents = rng.normal(size=(5, *manifest["sample_shape"])).astype(np.float32)
    classes = rng.integers(0, 10, 5)
    exact, single = (_by_torch(load_run(runs[manifest["family"]]).family, manifest, latents, classes, d) for d in (64, 32))
    with aigc_edge.open(bundle, engine=engine, threads=1, verify="all") as pipeline:
        found = pipeline.sample(5, latents=latents, classes=classes, output="float32")
    assert np.abs(exact).max() > 0.05
    # Twice what torch in float32 errs, and what a changed order of summation may add over ten evaluations.
    allowed = 2 * np.abs(single - exact).max() + 64 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(found - exact).max() <= allowed


def _by_torch(family, manifest, latents, classes, bits):
    """The default program by the NumPy executor around the trained torch network, all in float64 or float32."""
    program = Program.from_json(manifest["programs"][manifest["default_program"]])
    module = (family.double() if bits == 64 else family.float()).components()[0].module

    def network(*arguments):
        tensors = (torch.as_tensor(np.asarray(a)) for a in arguments if a is not None)
        with torch.no_grad():
            return module(
                *((t.double() if bits == 64 else t.float()) if t.is_floating_point() else t.long() for t in tensors)
            ).numpy()

    return reference.run(
        program,
        network if program.rows else None,
        latents,
        classes=classes,
        null_class=10,
        decoder=None if program.rows else network,
        dtype=np.float64 if bits == 64 else np.float32,
    )


def test_the_schedule_is_taken_out_and_said(bundles, runs):
    manifest = Bundle.open(bundles["diffusion"]).manifest.to_json()
    denoiser, schedule = manifest["components"]["denoiser"], manifest["components"]["schedule"]
    assert [t["role"] for t in denoiser["inputs"]] == ["sample", "timestep", "class", "constant"]
    assert denoiser["onnx_inputs"] == ["sample", "class_labels", "constant_0"]
    assert denoiser["weights"]["inputs"] == ["sample", "timestep", "class_labels"]
    removed = denoiser["schedule_constants"]
    assert removed["operators"] == 9
    assert removed["weights"] == 16 + 16 * 32 + 16 + 16 * 16 + 16  # frequencies and two linear layers
    timesteps = schedule["table"]["timesteps"]
    wanted = {np.float32(row["timestep"]) for program in manifest["programs"].values() for row in program["rows"]}
    assert timesteps == sorted(map(float, wanted))
    assert manifest["files"][schedule["table"]["file"]]["bytes"] == len(timesteps) * 16 * 4
    assert list(schedule["formats"]) == ["fp32"]
    text = render(Bundle.open(bundles["diffusion"], verify=True).manifest)
    assert f"schedule: 9 of {removed['of_operators']} operators, " in text
    assert f"{len(timesteps)} timesteps" in text
    assert list(Bundle.open(bundles["gan"]).manifest.to_json()["components"]) == ["decoder"]


@pytest.mark.parametrize(
    ("options", "roles", "said"),
    [
        ({"schedule_constants": False}, ["sample", "timestep", "class"], None),
        ({"weights": False}, ["sample", "class", "constant"], "9 of "),  # nothing in it takes the timestep
    ],
)
def test_a_bundle_lists_what_its_networks_take(runs, tmp_path, options, roles, said):
    compile_source(runs["diffusion"], tmp_path / "a.aigc", formats=["fp32"], samples=2, threads=1, **options)
    denoiser = Bundle.open(tmp_path / "a.aigc").manifest.to_json()["components"]["denoiser"]
    assert [t["role"] for t in denoiser["inputs"]] == roles
    text = render(Bundle.open(tmp_path / "a.aigc", verify=True).manifest)
    assert f"schedule: {said}" in text if said else "schedule:" not in text


def test_with_and_without_schedule_constants_it_generates_the_same(bundles, runs, tmp_path, rng, monkeypatch):
    whole = tmp_path / "whole.aigc"
    monkeypatch.setattr(split, "export_split", lambda *_, **__: "it would not be exact")
    compile_source(runs["diffusion"], whole, formats=["fp32"], samples=2, threads=1)
    manifest = Bundle.open(whole, verify=True).manifest.to_json()
    assert list(manifest["components"]) == ["denoiser"]
    assert manifest["components"]["denoiser"]["schedule_constants"] == {"operators": 0, "reason": "it would not be exact"}
    assert "no operators removed (it would not be exact)" in render(Bundle.open(whole, verify=True).manifest)
    seed, classes = int(rng.integers(2**60)), rng.integers(-1, 10, 32)
    with (
        aigc_edge.open(whole, threads=1) as one,
        aigc_edge.open(bundles["diffusion"], threads=1) as other,
        aigc_edge.open(bundles["diffusion"], engine="torch", threads=1) as by_torch,
    ):
        for program in ({}, {"solver": "heun", "steps": 7}, {"program": "euler_ancestral-10"}):
            options = {"output": "float32", "classes": classes, "seed": seed, **program}
            wanted = one.sample(32, **options)
            found = other.sample(32, **options)
            scale = np.abs(wanted).max()
            assert np.abs(found - wanted).max() <= 1e-4 * scale
            assert np.abs(by_torch.sample(32, **options) - wanted).max() <= 1e-4 * scale
            for first, n in ((0, 1), (3, 2), (7, 25)):  # bit for bit in every batch
                part = other.sample(n, **options | {"classes": classes[first : first + n], "seed": seed + first})
                np.testing.assert_array_equal(part, found[first : first + n])


def test_every_runner_of_the_benchmark_samples_it(bundles, rng):
    from aigc_edge.bench import runner
    from aigc_edge.bench.suite import sizes

    workload = runner.open_workload(str(bundles["diffusion"]), None, None, 2.0, 1)
    latents = rng.normal(size=(3, *workload.shape)).astype(np.float32)
    classes = rng.integers(0, 10, 3)
    keys = [
        runner.key(cls, "fp32")
        for cls in map(runner.RUNNERS.__getitem__, runner.RUNNERS.names())
        if cls.unavailable(workload) is None
    ]
    assert {"native-fp32", "network-fp32", "numpy-fp32", "torch-fp32"} <= set(keys)
    with runner.opened(workload, keys) as runners:
        images = {name: each.generate(3, 0, classes, latents) for name, each in runners.items()}
    assert images.pop("network-fp32").size == 0
    native = images.pop("native-fp32").astype(int)
    for name, found in images.items():
        assert np.abs(found.astype(int) - native).max() <= 1, name
    files = workload.manifest.files
    assert sizes(workload, "int8")["networks"] == files["denoiser.int8.onnx"].bytes + files["schedule.fp32.table"].bytes


def test_the_quality_figures_are_those_of_the_bundle(bundle):
    manifest = Bundle.open(bundle).manifest.to_json()
    drawn = {}
    for format in ("fp32", "int8"):
        with aigc_edge.open(bundle, format=format, threads=1) as pipeline:
            images = pipeline.sample(SAMPLES, seed=0, classes=np.arange(SAMPLES) % 10, output="float32")
        drawn[format] = np.clip(images, -1, 1)
    figures = manifest["quality"]["int8"]
    assert figures["psnr"] == pytest.approx(psnr(drawn["int8"], drawn["fp32"]), rel=1e-6)
    assert figures["relative_l2"] == pytest.approx(relative_l2(drawn["int8"], drawn["fp32"]), rel=1e-6)
    for quality in manifest["quality"].values():
        assert quality["n"] == SAMPLES
        assert quality["frechet_low"] <= quality["frechet_high"]
        assert 0 <= quality["class_accuracy"] <= 1
        assert quality["judge_accuracy"] == manifest["judge"]["accuracy"]
        assert quality["batch_invariant"]
    assert "psnr" not in manifest["quality"]["fp32"]


def test_the_preview_shows_one_row_a_class(bundle):
    image = pytest.importorskip("PIL.Image")
    with image.open(bundle / "preview.png") as picture, aigc_edge.open(bundle, threads=1) as pipeline:
        pixels = np.asarray(picture)
        samples = pipeline.sample(80, seed=0, classes=np.repeat(np.arange(10), 8))
    factor = 6  # 8 pixels become 48
    assert pixels.shape == (10 * (8 * factor + 1) + 1, 8 * (8 * factor + 1) + 1)
    for index in (0, 7, 8, 79):
        top, left = index // 8 * 49 + 1, index % 8 * 49 + 1
        np.testing.assert_array_equal(pixels[top : top + 48 : factor, left : left + 48 : factor], samples[index, :, :, 0])


def test_engines_come_with_their_build_report(bundle):
    if "tensorrt_rtx" not in installed():
        pytest.skip("tensorrt_rtx is not installed")
    manifest = Bundle.open(bundle).manifest.to_json()
    (component,) = (entry for name, entry in manifest["components"].items() if name != "schedule")
    assert component["formats"]["int8"]["tensorrt"] in manifest["files"]  # what a Jetson builds from
    assert [(e["target"], e["sm"], e["format"]) for e in component["engines"]] == [("rtx-30", 86, "fp32"), ("rtx-30", 86, "int8")]
    for engine in component["engines"]:
        assert engine["precision"]["layers"].get(engine["format"], 0) > 0
        report = json.loads((bundle / engine["file"]).with_suffix(".json").read_text())
        assert report["precision"]["layers"] == engine["precision"]["layers"]
        files = component["formats"][engine["format"]]
        built_from = manifest["files"][files.get("tensorrt", files["file"])]
        assert report["onnx_sha256"] == built_from["sha256"]


def _no_work(monkeypatch):
    monkeypatch.setattr(compilation, "open_source", lambda *_: pytest.fail("work was started"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"formats": ["int3"]}, "int3"),
        ({"formats": []}, "at least one"),
        ({"formats": ["int8", "int8:psnr=20"]}, "twice"),
        ({"targets": ["rtx-99"]}, "unknown target 'rtx-99'"),
        ({"formats": ["fp32", "int8"], "targets": ["rtx-20"]}, "rtx-20 does not run fp32, int8, it runs fp16"),
        ({"samples": 1}, "at least 2"),
        ({"budget": ["frechet=0.5"]}, "at least 1"),
        ({"budget": ["lpips=3"]}, "is no budget"),
        ({"budget": ["psnr=x"]}, "is no budget"),
    ],
)
def test_what_cannot_succeed_is_refused_before_the_work(tmp_path, monkeypatch, arguments, words):
    _no_work(monkeypatch)
    with pytest.raises(AigcEdgeError) as error:
        compile_source(tmp_path / "run", tmp_path / "out.aigc", **arguments)
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_or_an_impossible_place_is_refused_before_the_work(tmp_path, monkeypatch):
    _no_work(monkeypatch)
    (tmp_path / "there.aigc").mkdir()
    (tmp_path / "file").write_text("")
    for out, words in (
        (tmp_path / "there.aigc", "already exists"),
        (tmp_path / "file" / "x.aigc", "not a writable folder"),
    ):
        with pytest.raises(AigcEdgeError, match=words):
            compile_source(tmp_path / "run", out)
    monkeypatch.setattr(request, "installed", list)
    with pytest.raises(AigcEdgeError, match=r"pip install 'aigc-edge\[tensorrt\]'"):
        compile_source(tmp_path / "run", tmp_path / "x.aigc", targets=["rtx"])


def _shortcut(monkeypatch, quality):
    """Skip everything but the evaluation, whose figures are `quality`."""
    for name in ("export", "check_output_range", "tabulate", "make_judge", "convert_all", "build_engines", "preview"):
        monkeypatch.setattr(compilation, name, lambda *_, **__: None)
    monkeypatch.setattr(evaluation, "convert_format", lambda *_: None)
    monkeypatch.setattr("aigc_edge.compile.state.CompileState.draft", lambda self, formats: self.folder)
    monkeypatch.setattr("aigc_edge.compile.state.CompileState.network_files", lambda self, formats: {})

    class Evaluator:
        def __init__(self, *_, **__):
            pass

        def score(self, bundle, name, progress):
            (bundle / "half-written").write_text("x")
            if isinstance(quality, BaseException):
                raise quality
            return quality[name]

    monkeypatch.setattr(evaluation, "Evaluator", Evaluator)


@pytest.mark.parametrize(
    ("quality", "budget", "expected"),
    [
        (KeyboardInterrupt(), None, KeyboardInterrupt),
        ({"fp32": {"frechet": 1.0}, "int8": {"frechet": 1.3}}, ["frechet=1.2x"], BudgetError),
        ({"fp32": {"frechet": 1.0}, "int8": {"frechet": float("nan")}}, ["frechet=1.2x"], BudgetError),
        ({"fp32": {"frechet": 1.0}, "int8": {"psnr": 20.0}}, ["psnr=30"], BudgetError),
    ],
)
def test_an_interrupt_or_a_missed_budget_leaves_nothing(runs, tmp_path, monkeypatch, quality, budget, expected):
    _shortcut(monkeypatch, quality)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(expected):
        compile_source(runs["gan"], tmp_path / "out.aigc", formats=["fp32", "int8"], budget=budget, samples=4)
    assert os.listdir(tmp_path) == ["cache"]
    assert os.listdir(tmp_path / "cache" / "aigc-edge" / "compile") == []


def test_a_kept_budget_passes(runs, tmp_path, monkeypatch):
    _shortcut(monkeypatch, {"fp32": {"frechet": 1.0}, "int8": {"frechet": 1.2, "psnr": None}})
    made = compile_source(
        runs["gan"], tmp_path / "out.aigc", formats=["fp32", "int8"], budget=["frechet=1.2x", "psnr=30"], samples=4
    )
    assert made.name == "out"


def test_a_judge_is_not_trained_on_other_data(tmp_path, monkeypatch):
    run = _write_run(tmp_path / "run", "gan")
    config = json.loads((run / "config.json").read_text())
    config["data"]["fingerprint"] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    for name in ("export", "check_output_range"):
        monkeypatch.setattr(compilation, name, lambda *_, **__: None)
    monkeypatch.setattr(compilation, "tabulate", lambda *_: None)
    with pytest.raises(AigcEdgeError, match="differ from those that"):
        compile_source(run, tmp_path / "out.aigc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_progress_only_goes_forward(runs, tmp_path, monkeypatch):
    _shortcut(monkeypatch, {"fp32": {"frechet": 1.0}})
    said = []
    compile_source(runs["gan"], tmp_path / "out.aigc", samples=4, progress=lambda *report: said.append(report))
    assert said[-1] == ("done", 1.0, 0.0)
    assert [s[1] for s in said] == sorted(s[1] for s in said)
