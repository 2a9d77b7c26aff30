"""Torch modules as sources: they generate what torch does, through the bundle, and say what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import aigc_edge
from aigc_edge.compile import compile_source
from aigc_edge.diffusion import Program, build, sample
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source
from aigc_edge.sources.generator import Generator

SCHEDULE = {"prediction": "epsilon", "betas": "linear"}


def _compiled(source, path, **options):
    compile_source(source, path, formats=["fp32"], samples=2, threads=1, **options)
    return aigc_edge.open(path, threads=1)


@pytest.mark.parametrize("classes", [0, 5])
def test_a_denoiser_generates_what_torch_does(denoiser, tmp_path, rng, classes):
    network = denoiser(classes).eval()
    example, scale = torch.randn(2, 3, 8, 8), 2.0 if classes else 1.0
    source = Generator(sample=example, denoiser=network, schedule=SCHEDULE, num_classes=classes, guidance_scale=scale)
    labels = rng.integers(0, 5, 3) if classes else None
    latents = rng.standard_normal((3, 3, 8, 8), dtype=np.float32)
    with _compiled(source, tmp_path / "a.aigc") as pipeline:
        assert pipeline.manifest.family == "module"
        assert pipeline.manifest.judge is None
        found = pipeline.sample(3, latents=latents, classes=labels, output="float32")
    conditions = {"labels": torch.as_tensor(labels)} if classes else None
    negative = {"labels": torch.full((3,), classes)} if classes else None
    with torch.no_grad():
        program = build(SCHEDULE, "dpmpp_2m", 10, guidance_scale=scale)
        wanted = sample(program, network, torch.as_tensor(latents), conditions=conditions, negative=negative).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_decoder_generates_what_torch_does(decoder, tmp_path, rng):
    network = decoder().eval()
    latents = rng.standard_normal((4, 6), dtype=np.float32)
    with _compiled(Generator(sample=torch.randn(1, 6), decoder=network), tmp_path / "a.aigc") as pipeline:
        found = pipeline.sample(4, latents=latents, output="float32")
    with torch.no_grad():
        np.testing.assert_allclose(found, network(torch.as_tensor(latents)).numpy(), atol=1e-5)


def test_a_denoiser_with_a_decoder(denoiser, tmp_path, rng):
    network, upscale = denoiser().eval(), nn.Upsample(scale_factor=2.0)
    own = build({"prediction": "edm", "sigma_max": 5.0}, "heun", 3)
    source = Generator(sample=torch.randn(1, 3, 8, 8), denoiser=network, decoder=upscale, programs=[own])
    with _compiled(source, tmp_path / "a.aigc") as pipeline:
        assert pipeline.programs == ["heun-3"]
        found = pipeline.sample(2, seed=int(rng.integers(2**50)), output="float32")
    assert found.shape == (2, 3, 16, 16)
    np.testing.assert_array_equal(found[:, :, ::2, ::2], found[:, :, 1::2, 1::2])


def test_a_function_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_a_test.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.Conv2d(3, 3, 3, padding=1), torch.randn(2, 3, 4, 4)\n"
        "def bare():\n    return torch.nn.Conv2d(3, 3, 3)\n"
        "def broken():\n    raise RuntimeError('no such weights')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    source = open_source("mine_for_a_test:build")
    assert (source.name, source.sample_shape, source.output_shape) == ("mine_for_a_test", (3, 4, 4), (3, 4, 4))
    for text, options, words in [
        ("mine_for_a_test:bare", SourceOptions(), "example"),
        ("mine_for_a_test:broken", SourceOptions(), "RuntimeError: no such weights"),
        ("mine_for_a_test:number", SourceOptions(), "it has build, bare, broken"),
        ("no_module_of_this_name:build", SourceOptions(), "cannot be imported"),
        ("mine_for_a_test:build", SourceOptions(role="denoiser"), "--prediction"),
        ("mine_for_a_test:build", SourceOptions(prediction="v"), "--role denoiser"),
        ("mine_for_a_test:build", SourceOptions(size=(3, 3)), "--size"),
        ("there/is/none", SourceOptions(), "does not exist"),
    ]:
        with pytest.raises(AigcEdgeError, match=words):
            open_source(text, options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "without networks"),
        ({"denoiser": nn.Identity()}, "without its schedule"),
        ({"decoder": nn.Identity(), "schedule": SCHEDULE}, "without a denoiser"),
        ({"decoder": nn.Flatten()}, r"must be \[N, C, H, W\]"),
        ({"decoder": nn.Conv2d(5, 3, 1)}, "does not accept"),
        ({"decoder": nn.Identity(), "num_classes": 2, "class_names": ["a"]}, "1 class names for 2"),
        ({"decoder": nn.Identity(), "sample": torch.zeros(1, 3, 8, 8, dtype=torch.int64)}, "float32"),
        ({"decoder": nn.Identity(), "sample": [1, 2]}, "list"),
    ],
)
def test_what_does_not_fit_is_said(options, words):
    with pytest.raises(AigcEdgeError, match=words):
        Generator(**{"sample": torch.zeros(1, 3, 8, 8)} | options)


def test_its_own_programs_come_first():
    own = build(SCHEDULE, "euler", 3)
    source = Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=nn.Identity(), schedule=SCHEDULE, programs=[own])
    assert source.programs(None, None, None)[0] is own
    assert source.programs("ddim", 7, None)[0].name == "ddim-7"
    assert {p.guidance_scale for p in source.programs(None, None, 3.5)} == {3.5}
    made_here = source.programs(None, 4, None)
    assert made_here
    assert all(isinstance(p, Program) for p in made_here)


def test_conditions_are_what_a_caller_gives(tmp_path, rng):
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3 + 2, 3, 3, padding=1)

        def forward(self, sample, timestep, tone):
            shown = tone[:, :, None, None].expand(-1, -1, *sample.shape[2:]) * timestep[:, None, None, None] / 1000
            return self.body(torch.cat([sample, shown], dim=1))

    torch.manual_seed(0)
    network = Conditional().eval()
    examples = {"conditions": {"tone": torch.randn(3, 2)}, "negative": {"tone": torch.zeros(1, 2)}}
    source = Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=network, schedule=SCHEDULE, guidance_scale=3.0, **examples)
    latents, tone = rng.standard_normal((2, 3, 8, 8), dtype=np.float32), rng.standard_normal((2, 2), dtype=np.float32)
    compile_source(source, tmp_path / "a.aigc", formats=["fp32", "int8:psnr=5,aim=0,rank=false"], samples=2, threads=1)
    with aigc_edge.open(tmp_path / "a.aigc", threads=1) as pipeline:
        given = {"conditions": {"tone": tone}, "negative_conditions": {"tone": np.zeros((1, 2), np.float32)}}
        found = pipeline.sample(2, latents=latents, output="float32", **given)
        assert pipeline.manifest.quality["int8"]["psnr"] > 5
    program = build(SCHEDULE, "dpmpp_2m", 10, guidance_scale=3.0)
    with torch.no_grad():
        own, other = {"tone": torch.as_tensor(tone)}, {"tone": torch.zeros(2, 2)}
        wanted = sample(program, network, torch.as_tensor(latents), conditions=own, negative=other).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_constant_that_is_expanded_to_the_batch(tmp_path, dynamic):
    class Styled(nn.Module):
        def __init__(self):
            super().__init__()
            self.constant, self.style = nn.Parameter(torch.randn(1, 8, 4, 4)), nn.Linear(6, 8)
            self.out = nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, sample):
            count = sample.shape[0] if dynamic else len(sample)
            return self.out(self.constant.expand(count, -1, -1, -1) * self.style(sample)[:, :, None, None])

    (part,) = Generator(sample=torch.randn(1, 6), decoder=Styled()).components()
    if dynamic:
        checks = part.write(tmp_path / "net.onnx")["checks"]
        assert checks
        assert all(check["relative_l2"] <= check["allowed"] for check in checks)
    else:
        with pytest.raises(AigcEdgeError, match=r"x\.shape"):
            part.write(tmp_path / "net.onnx")


def test_inputs_at_the_first_of_several_sizes(tmp_path, monkeypatch, rng):
    (tmp_path / "sized_for_a_test.py").write_text(
        "import torch\nfrom aigc_edge.sources.generator import Generator\n"
        "def build():\n"
        "    return Generator(sample=torch.zeros(1, 3, 8, 8), decoder=torch.nn.Conv2d(3, 3, 1), sizes=[(8, 8), (8, 16)])\n"
    )
    monkeypatch.chdir(tmp_path)
    for width in (8, 16):
        np.savez(f"inputs{width}.npz", sample=rng.uniform(0, 1, (4, 3, 8, width)))
    source = open_source("sized_for_a_test:build", SourceOptions(calibration="inputs8.npz"))
    assert source.inputs.arrays["sample"].shape == (4, 3, 8, 8)
    with pytest.raises(AigcEdgeError, match=r"\['N', 3, 8, 8\]"):
        open_source("sized_for_a_test:build", SourceOptions(calibration="inputs16.npz"))


class Toned(nn.Module):
    """A vector and a class → an image."""

    def __init__(self):
        super().__init__()
        self.tones, self.out = nn.Embedding(4, 16), nn.Linear(16, 48)

    def forward(self, sample, classes):
        return torch.tanh(self.out(sample * self.tones(classes))).reshape(-1, 3, 4, 4)


def test_labels_that_do_not_fit_are_refused(rng):
    values = rng.standard_normal((5, 16))
    for labels, words in (
        (np.arange(4, 9), "hold 4: toned takes labels, whole numbers from 0 to 3"),
        (np.array([0, 1, 2, 3, -1]), "hold -1: toned"),
        (np.array([0, 1, 2.5, 3, 1]), r"hold 2\.5: toned"),
    ):
        with pytest.raises(AigcEdgeError, match=words):
            Generator(
                sample=torch.zeros(1, 16),
                decoder=Toned(),
                num_classes=4,
                name="toned",
                inputs={"sample": values, "class_labels": labels},
            )


def test_the_values_of_the_sample_are_used_with_classes_too():
    example = torch.rand(5, 16)
    source = Generator(sample=example, decoder=Toned(), num_classes=4)
    np.testing.assert_array_equal(source.inputs.arrays["sample"], example.numpy())
