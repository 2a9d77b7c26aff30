"""Formats of a generator of one evaluation are calibrated and compared on what its network will see."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.cli import main
from aigc_edge.compile import compile_source
from aigc_edge.compile.conditions import conditions_of
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.errors import AigcEdgeError, CalibrationWarning
from aigc_edge.metrics.paired import compare
from aigc_edge.runtime.initial_state import latents_of
from aigc_edge.runtime.request import SampleRequest
from aigc_edge.sources.generator import Generator

QUICK: dict[str, Any] = {"samples": 8, "threads": 1}
LOOSE = "int8:psnr=1,aim=0,rank=false,estimator=minmax"


class Upscaler(nn.Module):
    """×2 super-resolution of pixels 0 … 255: what its layers compute depends on the whole range."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.middle = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.last, self.shuffle = nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        details = self.shuffle(self.last(torch.relu(self.middle(torch.relu(self.first(pixels))))))
        return nn.functional.interpolate(pixels, scale_factor=2) * 0.2 + details + 60


@pytest.fixture
def photos(rng: np.random.Generator) -> np.ndarray:
    small = torch.from_numpy(rng.uniform(0, 255, (6, 3, 4, 4)).astype(np.float32))
    return nn.functional.interpolate(small, scale_factor=3, mode="bilinear").numpy()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _upscaler(photos: np.ndarray, **options: Any) -> Generator:
    sample = torch.from_numpy(photos)
    return Generator(sample=sample, decoder=Upscaler(), output_range=(0.0, 255.0), name="upscaler", **options)


def _against_fp32(bundle: Path, latents: np.ndarray) -> dict[str, float | None]:
    results = []
    for format in ("int8", "fp32"):
        with aigc_edge.open(bundle, format=format, threads=1) as pipeline:
            results.append(pipeline.sample(len(latents), latents=latents, output="float32"))
    return compare(*(np.clip(each, 0, 255) for each in results))


def test_the_values_of_the_sample_are_what_formats_are_judged_on(photos: np.ndarray, tmp_path: Path) -> None:
    bundle = tmp_path / "upscaler.aigc"
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        manifest = compile_source(_upscaler(photos), bundle, formats=["fp32", LOOSE], **QUICK)
    assert manifest.calibration is not None
    assert manifest.calibration.inputs == "arrays"
    low, high = manifest.calibration.ranges["sample"]
    assert (low, high) == pytest.approx((photos.min(), photos.max()))
    figures = _against_fp32(bundle, photos)
    assert manifest.quality["int8"]["psnr"] == pytest.approx(figures["psnr"], abs=4), "as on the photos themselves"
    assert figures["psnr"] > 25
    # The same network calibrated on noise claims to be good and is not: nothing of it has seen pixels.
    other = tmp_path / "noise.aigc"
    compile_source(_upscaler(photos, inputs="normal"), other, formats=["fp32", LOOSE], **QUICK)
    assert _against_fp32(other, photos)["psnr"] < figures["psnr"] - 6
    # Later formats of the bundle are calibrated on the same inputs.
    again = quantise_bundle(bundle, [LOOSE], overwrite=True, **QUICK)
    assert again.calibration == manifest.calibration
    assert again.quality["int8"]["psnr"] == pytest.approx(manifest.quality["int8"]["psnr"], abs=0.5)


def test_sampling_warns_about_other_inputs(photos: np.ndarray, tmp_path: Path) -> None:
    bundle = tmp_path / "upscaler.aigc"
    compile_source(_upscaler(photos), bundle, formats=["fp32", "int8w:psnr=1"], **QUICK)
    with aigc_edge.open(bundle, format="int8w", threads=1) as pipeline:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pipeline.sample(6, latents=photos)
        for latents, words in ((photos / 255, "are at most"), (photos * 4, "reach from"), (-photos, "reach from")):
            with pytest.warns(CalibrationWarning, match=f"'sample' {words}.*int8w may be poor") as caught:
                pipeline.sample(6, latents=latents)
            assert caught[0].filename == __file__
        with pytest.warns(CalibrationWarning, match="give its input as latents"):
            pipeline.sample(2)
    with aigc_edge.open(bundle, format="fp32", threads=1) as pipeline, warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.sample(6, latents=photos / 255)


def _faces(**options: Any) -> Generator:
    torch.manual_seed(2)
    decoder = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 3 * 8 * 8), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))
    return Generator(sample=torch.zeros(1, 24), decoder=decoder, name="faces", **options)


@pytest.mark.parametrize(("inputs", "low", "high"), [("uniform", -1.0, 1.0), ("uniform:0:3", 0.0, 3.0), ("sphere", -4.5, 4.5)])
def test_latents_come_from_the_declared_distribution(inputs: str, low: float, high: float, tmp_path: Path) -> None:
    """Calibration, evaluation and sampling without latents draw from the same one."""
    bundle = tmp_path / "faces.aigc"
    manifest = compile_source(_faces(inputs=inputs), bundle, formats=["fp32", "int8w"], **QUICK)
    assert manifest.calibration is not None
    assert manifest.calibration.inputs.startswith(inputs)
    least, most = manifest.calibration.ranges["sample"]
    assert low <= least < most <= high
    seen: list[np.ndarray] = []

    def watch(component: str, row: int, tensors: Any, outputs: Any) -> None:
        seen.append(tensors["sample"].copy())

    with aigc_edge.open(bundle, threads=1) as pipeline:
        images = pipeline.sample(200, seed=4, watch=watch)
        for noise in ("torch-cpu", "numpy"):
            pipeline.sample(8, seed=4, noise=noise, watch=watch)
        np.testing.assert_array_equal(pipeline.sample(3, seed=6), images[2:5])
    latents = np.concatenate(seen)
    assert low <= latents.min() < latents.max() <= high
    normals = latents_of(SampleRequest(count=200, seed=4), (24,))  # the native sampler transforms the same numbers
    np.testing.assert_allclose(latents[:200], SampleInputs.parse(inputs).transformed(normals), atol=3e-7 * (high - low))
    if inputs == "sphere":
        np.testing.assert_allclose(np.square(latents).sum(1), 24, rtol=1e-4)
    else:
        assert np.abs(np.histogram(latents[:200], 4, (low, high))[0] / 1200 - 1).max() < 0.2  # a deviation of 0.025


@pytest.mark.parametrize("inputs", [None, "normal"])
def test_without_a_declaration_latents_are_normal(inputs: str | None, tmp_path: Path) -> None:
    manifest = compile_source(_faces(inputs=inputs), tmp_path / "faces.aigc", formats=["fp32"], **QUICK)
    assert manifest.calibration is not None
    assert manifest.calibration.inputs == "normal"
    assert not manifest.examples


def test_the_command_line(photos: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("photos.npz", pixels=photos)
    np.savez("others.npz", image=photos)
    torch.onnx.export(
        Upscaler(), (torch.zeros(2, 3, 12, 12),), "up.onnx", input_names=["pixels"], dynamic_shapes=({0: "N"},), dynamo=True
    )
    command = ["compile", "up.onnx", "--role", "decoder", "--format", "fp32", "--samples", "4", "--threads", "1", "-o"]
    assert main([*command, "up.aigc", "--calibration", "photos.npz"]) == 0
    manifest = Bundle.open(Path("up.aigc"), verify=True).manifest
    assert manifest.calibration is not None
    assert manifest.calibration.inputs == "arrays"
    assert list(manifest.examples["inputs"]) == ["pixels"]
    assert "--calibration FILE.npz" in manifest.provenance["command"]
    assert main([*command, "uniform.aigc", "--inputs", "uniform:0:255"]) == 0
    assert json.loads(Path("uniform.aigc/manifest.json").read_text())["calibration"]["inputs"] == "uniform:0:255"
    for options, words in (
        (("--calibration", "others.npz"), "name them as its inputs pixels"),
        (("--calibration", "none.npz"), "existing .npz file"),
        (("--inputs", "gaussian"), "uniform:LOW:HIGH"),
        (("--inputs", "uniform", "--calibration", "photos.npz"), "not allowed"),
    ):
        with pytest.raises(SystemExit) if "npz" not in options[1] or "none" in options[1] else _nothing():
            assert main([*command, "other.aigc", *options]) == 2
        assert words in capsys.readouterr().err
    assert not Path("other.aigc").exists()


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


class _Toned(nn.Module):
    """A vector and a class → an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.tones, self.out = nn.Embedding(4, 16), nn.Linear(16, 48)

    def forward(self, sample: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(sample * self.tones(classes))).reshape(-1, 3, 4, 4)


def test_labels_of_the_arrays_are_stored_as_integers(rng: np.random.Generator, tmp_path: Path) -> None:
    labels, bundle = rng.integers(0, 4, 9), tmp_path / "toned.aigc"
    inputs = {"sample": rng.uniform(-1, 1, (9, 16)), "class_labels": labels}
    source = Generator(sample=torch.zeros(1, 16), decoder=_Toned(), num_classes=4, inputs=inputs)
    manifest = compile_source(source, bundle, formats=["fp32"], **QUICK)
    stored = np.load(bundle / manifest.examples["inputs"]["class_labels"])
    assert stored.dtype == np.int64
    np.testing.assert_array_equal(stored, labels)
    assert "fp16" in quantise_bundle(bundle, ["fp16"], **QUICK).quality


@pytest.mark.parametrize("dtype", [np.int64, np.float32])  # float32: in bundles of before
def test_stored_labels_are_read_as_integers(dtype: Any, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 4, 9)
    arrays = {"sample": rng.uniform(-1, 1, (9, 16)), "class_labels": labels.astype(dtype)}
    source = Generator(sample=torch.zeros(1, 16), decoder=_Toned(), num_classes=4)
    state: Any = SimpleNamespace(
        main="decoder",
        components={"decoder": Component(source.components()[0].spec, {})},
        manifest=Manifest(),
        inputs=SampleInputs("arrays", arrays=arrays),
        num_classes=4,
        prompts=(),
        programs={"one": SimpleNamespace(rows=())},
        default_program="one",
        request=SimpleNamespace(seed=0),
    )
    classes = conditions_of(state)(np.arange(5, 12))["classes"]
    assert classes.dtype == np.int64
    held_out = labels[2::3]  # every third array is compared on, each with its own label
    np.testing.assert_array_equal(classes, np.tile(held_out, 4)[5:12])


def test_formats_are_compared_at_another_size(photos: np.ndarray, tmp_path: Path) -> None:
    """On a distribution at that size; arrays have one size, and the bundle notes that the other was not measured."""
    sizes = [(24, 24), (32, 48)]
    for inputs in ("uniform:0:255", None):
        source = _upscaler(photos, inputs=inputs, sizes=sizes)
        manifest = compile_source(source, tmp_path / f"{inputs}.aigc", formats=["fp32", "int8w:psnr=1"], **QUICK)
        if inputs is None:
            assert "sizes" not in manifest.quality["int8w"]
            assert any("measured at 24x24 alone: the inputs" in note for note in manifest.notes)
        else:
            assert manifest.quality["int8w"]["sizes"]["32x48"]["psnr"] > 1
            assert not any("alone" in note for note in manifest.notes)


class _Shrink(nn.Module):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return 0.5 * sample


def test_inputs_that_do_not_fit_are_refused(photos: np.ndarray) -> None:
    with pytest.raises(AigcEdgeError, match=r"shape \[6, 3, 12, 12\]: faces takes \['N', 24\]"):
        _faces(inputs={"sample": photos})
    with pytest.raises(AigcEdgeError, match="name them as its inputs sample"):
        _faces(inputs={"noise": np.zeros((2, 24))})
    with pytest.raises(AigcEdgeError, match="states of its own program"):
        Generator(
            sample=torch.zeros(1, 3, 8, 8),
            denoiser=_Shrink(),
            schedule={"prediction": "epsilon", "betas": "linear"},
            inputs="uniform",
        )


def _seen(monkeypatch: pytest.MonkeyPatch) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What formats are calibrated on, and what they are judged on, in compilations that follow."""
    from aigc_edge.compile import evaluator
    from aigc_edge.compress.calibration.trajectory import Calibration

    calibrated: list[np.ndarray] = []
    judged: list[np.ndarray] = []
    drawn, sampled = Calibration.draw, evaluator.draw

    def draw(*arguments: Any, **options: Any) -> Calibration:
        calibrated.append((result := drawn(*arguments, **options)).latents)
        return result

    def sample(bundle: Path, format: str, conditions_of: Any, index: Any, **options: Any) -> Any:
        judged.append(conditions_of(index)["latents"])
        return sampled(bundle, format, conditions_of, index, **options)

    monkeypatch.setattr(Calibration, "draw", draw)
    monkeypatch.setattr(evaluator, "draw", sample)
    return calibrated, judged


def test_arrays_that_judge_are_not_calibrated_on(
    photos: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    calibrated, judged = _seen(monkeypatch)
    many = photos[rng.integers(6, size=24)] + rng.uniform(0, 9, (24, 1, 1, 1)) - 9 * (np.arange(24) == 23)[:, None, None, None]
    many = many.astype(np.float32)
    bundle = tmp_path / "many.aigc"
    manifest = compile_source(_upscaler(many), bundle, formats=["fp32", "int8w:psnr=1"], **QUICK)
    quantise_bundle(bundle, ["fp16:psnr=1"], **QUICK)
    training, judging = ({each.tobytes() for part in parts for each in part} for parts in (calibrated, judged))
    assert training == {each.tobytes() for i, each in enumerate(many) if i % 3 != 2}
    assert judging == {each.tobytes() for each in many[2::3]}
    assert manifest.calibration is not None
    assert manifest.calibration.ranges["sample"] == (many.min(), many.max())
    assert not [note for note in manifest.notes if "calibrated on" in note]


def test_too_few_arrays_to_hold_some_out_are_said(photos: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated, judged = _seen(monkeypatch)
    manifest = compile_source(_upscaler(photos[:2]), tmp_path / "two.aigc", formats=["fp32", "int8w:psnr=1"], **QUICK)
    for part in (*calibrated, *judged):
        assert {each.tobytes() for each in part[:2]} == {each.tobytes() for each in photos[:2]}
    assert len([note for note in manifest.notes if "measured on the inputs that formats were calibrated on" in note]) == 1
