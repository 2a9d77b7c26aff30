"""Torch modules and ONNX files compiled for several image sizes: every size generates what torch does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import aigc_edge
from aigc_edge.compile import compile_source
from aigc_edge.diffusion import build, sample
from aigc_edge.errors import AigcEdgeError
from aigc_edge.report.summary import describe
from aigc_edge.sources.base import SourceOptions, open_source
from aigc_edge.sources.generator import Generator

SCHEDULE = {"prediction": "epsilon", "betas": "linear"}
FLAT = {"sample": torch.zeros(1, 6)}


class Attending(nn.Module):
    """F(sample [N, 4, H, W], timestep [N], classes [N]) of convolutions, a group norm and attention over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 16, 3, stride=2, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.norm, self.qkv = nn.GroupNorm(4, 16), nn.Linear(16, 48)
        self.time = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 16))
        self.classes = nn.Embedding(4, 16)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        embedding = self.time(timestep[:, None] / 1000) + self.classes(labels)
        x = nn.functional.silu(self.norm(self.first(sample)) + embedding[:, :, None, None])
        count, channels, height, width = x.shape
        tokens = self.qkv(x.flatten(2).transpose(1, 2)).reshape(count, height * width, 3, 2, 8).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*tokens).transpose(1, 2).reshape(count, height * width, channels)
        x = x + seen.transpose(1, 2).reshape(count, channels, height, width)
        return self.last(nn.functional.interpolate(x, scale_factor=2.0))


class Upscaling(nn.Module):
    """[N, 4, h, w] → [N, 3, 4 h, 4 w]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, stride=4))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(sample))


@pytest.mark.parametrize("sizes", [[(32, 32), (48, 80)], [(32, 32), (32, 64)]], ids=["both", "width"])
def test_a_denoiser_and_a_decoder_generate_what_torch_does(
    tmp_path: Path, rng: np.random.Generator, sizes: list[tuple[int, int]]
) -> None:
    denoiser, decoder = Attending().eval(), Upscaling().eval()
    source = Generator(
        sample=torch.randn(1, 4, 8, 8),
        denoiser=denoiser,
        decoder=decoder,
        schedule=SCHEDULE,
        num_classes=3,
        guidance_scale=2.0,
        sizes=sizes,
    )
    compile_source(source, tmp_path / "a.aigc", formats=["fp32"], steps=4, samples=2, threads=1)
    program = build(SCHEDULE, "dpmpp_2m", 4, guidance_scale=2.0)
    for height, width in sizes:
        latents, labels = rng.standard_normal((2, 4, height // 4, width // 4), dtype=np.float32), rng.integers(0, 3, 2)
        with torch.no_grad():
            given, none = {"labels": torch.as_tensor(labels)}, {"labels": torch.full((2,), 3)}
            made = sample(program, denoiser, torch.as_tensor(latents), conditions=given, negative=none)
            wanted = decoder(torch.as_tensor(made)).numpy()
        for engine in ("onnxruntime", "openvino"):
            with aigc_edge.open(tmp_path / "a.aigc", threads=1, size=(height, width), engine=engine) as pipeline:
                found = pipeline.sample(2, latents=latents, classes=labels, output="float32")
                assert pipeline.sample(1).shape == (1, height, width, 3)
            assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
    shapes = [t["shape"] for t in describe(tmp_path / "a.aigc")["components"]["denoiser"]["inputs"]]
    assert shapes[0] == (["N", 4, "H/4", "W/4"] if sizes[1][0] == 48 else ["N", 4, 8, "W/4"])


class Placed(nn.Module):
    """A network that has learned something for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 3, 8, 8))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return sample + self.places


class Counting(nn.Module):
    """A network whose code converts the size to a number."""

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return sample / len(sample[0, 0])


@pytest.mark.parametrize("module", [Placed, Counting])
def test_a_network_that_fits_one_size(tmp_path: Path, module: type[nn.Module]) -> None:
    (part,) = Generator(sample=torch.randn(1, 3, 8, 8), decoder=nn.Identity(), sizes=[(8, 8), (12, 16)]).components()
    part._load = lambda: module()
    with pytest.raises(AigcEdgeError, match=r"cannot be exported to ONNX for several|converts the size to a number"):
        part.write(tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": [(16, 16), (8, 8)]}, r"the first size is 16x16, but the example produces 8x8"),
        ({"sizes": [(8, 8), (8, 0)]}, r"do not fit a sample"),
        ({"sizes": [(24, 24), (25, 24)], "decoder": nn.Upsample(scale_factor=3.0)}, r"the sizes 24x24, 25x24 do not fit"),
        (
            {"sizes": [(8, 8), (8, 16)], "sample": torch.zeros(1, 6), "decoder": nn.Unflatten(1, (1, 2, 3))},
            r"the first size is 8x8",
        ),
        (
            {"sizes": [(2, 3), (4, 6)], "sample": torch.zeros(1, 6), "decoder": nn.Unflatten(1, (1, 2, 3))},
            r"do not fit a sample",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AigcEdgeError, match=words):
        Generator(**{"sample": torch.zeros(1, 3, 8, 8), "decoder": nn.Identity()} | options)


def test_one_size_is_a_bundle_as_before() -> None:
    (part,) = Generator(sample=torch.zeros(1, 3, 8, 8), decoder=nn.Identity(), sizes=[(8, 8), (8, 8)]).components()
    assert part.sizes == ()
    assert part.spec.inputs[0].shape == ("N", 3, 8, 8)


@pytest.fixture
def file(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """Writes a network of one transposed convolution whose image is `scale` times its sample, of these sizes or dynamic ones."""

    def write(scale: int, *sides: Any, out: Any = 3) -> Path:
        weight = numpy_helper.from_array(rng.normal(size=(3, 3, scale, scale)).astype(np.float32), "w")
        nodes = [
            helper.make_node("ConvTranspose", ["x", "w"], ["a"], strides=[scale, scale]),
            helper.make_node("Tanh", ["a"], ["y"]),
        ]
        taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, *(sides or ("h", "w"))])
        given = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", out, "a", "b"])
        if sides:
            given = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, *(scale * side for side in sides)])
        graph = helper.make_graph(nodes, "net", [taken], [given], [weight])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return write


@pytest.mark.parametrize("sizes", [[(8, 12)], [(8, 12), (20, 16)]])
def test_an_onnx_file_with_dynamic_sides(file: Any, tmp_path: Path, rng: np.random.Generator, sizes: list[Any]) -> None:
    import onnxruntime

    path = file(2)
    source = open_source(str(path), SourceOptions(role="decoder", size=sizes[0], further_sizes=tuple(sizes[1:])))
    assert (source.sample_shape, source.output_shape) == ((3, 4, 6), (3, 8, 12))
    compile_source(source, tmp_path / "a.aigc", formats=["fp32", "fp16"], samples=2, threads=1)
    session = onnxruntime.InferenceSession(str(path))
    for height, width in sizes:
        latents = rng.standard_normal((2, 3, height // 2, width // 2), dtype=np.float32)
        with aigc_edge.open(tmp_path / "a.aigc", threads=1, size=(height, width)) as pipeline:
            found = pipeline.sample(2, latents=latents, output="float32")
            quality = pipeline.manifest.quality["fp16"]
        np.testing.assert_allclose(found, session.run(None, {"x": latents})[0], atol=1e-5)
    if len(sizes) > 1:
        assert quality["sizes"]["20x16"]["psnr"] > 40


def test_onnx_files_that_need_sizes_or_take_none(file: Any) -> None:
    path = str(file(2))
    for options, words in [
        ({}, r"dynamic dimension other than the batch: set it with --size"),
        ({"size": (9, 8)}, r"the size 9x8 does not fit net.onnx: both must be multiples of 2"),
    ]:
        with pytest.raises(AigcEdgeError, match=words):
            open_source(path, SourceOptions(role="decoder", **options))
    with pytest.raises(AigcEdgeError, match=r"--size was given, but an ONNX file of one size specifies it itself"):
        open_source(str(file(2, 4, 4)), SourceOptions(role="decoder", size=(8, 8)))
