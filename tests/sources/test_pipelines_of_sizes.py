"""Folders compiled for several image sizes: every size beside diffusers' own pipeline at that size, from the same noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import aigc_edge
from aigc_edge.bundle.sizes import sides
from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.compile import compile_source
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceComponent, SourceOptions, open_source
from aigc_edge.sources.diffusers.pipelines.stable_diffusion_xl import XlUnet

LENGTH, WIDTH = 12, 16
PROMPTS = ["a red cat on a dog", "dogs"]
SIZES = [(16, 16), (24, 40)]
OPTIONS = SourceOptions(size=SIZES[0], further_sizes=tuple(SIZES[1:]))


def unet() -> diffusers.UNet2DConditionModel:
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D",) * 2}
    made = diffusers.UNet2DConditionModel(
        **kinds,
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )
    made.conv_out.weight.data *= 0.2  # an untrained network is no denoiser: its rounding would grow with every step
    return made


def vae() -> diffusers.AutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**kinds, block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4)


@pytest.fixture
def folder(tmp_path: Path, clip_tokenizer: Callable[..., None], clip_model: Callable[..., Any]) -> Path:
    """A Stable Diffusion of two levels, whose image is twice its latents."""
    from transformers import CLIPTokenizer

    clip_tokenizer(tmp_path / "clip", LENGTH)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "clip")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )
    extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPipeline(vae(), clip_model(LENGTH, WIDTH, layers=1), tokenizer, unet(), scheduler, **extra)
    pipe.save_pretrained(tmp_path / "sd")
    return tmp_path / "sd"


def psnr(image: np.ndarray, wanted: np.ndarray) -> float:
    """Of images in -1 … 1 to those of diffusers, in 0 … 1 and clipped."""
    assert image.shape == wanted.shape
    assert wanted.std() > 0.02, "an even image proves nothing"
    return float(10 * np.log10(1 / np.mean((np.clip(image / 2 + 0.5, 0, 1) - wanted) ** 2)))


def test_stable_diffusion_at_two_sizes(folder: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    bundle = tmp_path / "sd.aigc"
    compile_source(str(folder), bundle, formats=["fp32"], steps=5, samples=2, threads=1, options=OPTIONS)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for engine in ("onnxruntime", "openvino"):
        for height, width in SIZES:
            latents = rng.standard_normal((2, 4, height // 2, width // 2), np.float32)
            given = {"num_inference_steps": 5, "height": height, "width": width, "latents": torch.from_numpy(latents)}
            wanted = np.asarray(pipe(PROMPTS, output_type="pt", **given).images)
            with aigc_edge.open(bundle, threads=1, size=(height, width), engine=engine) as pipeline:
                assert pipeline.size == (height, width)
                found = pipeline.sample(2, prompt=PROMPTS, latents=latents, output="float32")
            assert psnr(found, wanted) > 70
    with pytest.raises(AigcEdgeError, match=r"has no size 32x32: choose one of 16x16, 24x40"):
        aigc_edge.open(bundle, size=(32, 32))


def test_an_unconditional_folder_at_two_sizes(tmp_path: Path, rng: np.random.Generator) -> None:
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = diffusers.UNet2DModel(
        **kinds, sample_size=8, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8, attention_head_dim=8
    )
    network.conv_out.weight.data *= 0.03
    diffusers.DDIMPipeline(network, diffusers.DDIMScheduler(beta_schedule="linear")).save_pretrained(tmp_path / "ddim")
    options = SourceOptions(size=(8, 8), further_sizes=((12, 20),))
    compile_source(str(tmp_path / "ddim"), tmp_path / "a.aigc", formats=["fp32"], steps=5, samples=2, threads=1, options=options)
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear")
    scheduler.set_timesteps(5)
    for size in ((8, 8), (12, 20)):
        latents = rng.standard_normal((2, 3, *size), np.float32)
        sample = torch.from_numpy(latents)
        with torch.no_grad():
            for time in scheduler.timesteps:
                sample = scheduler.step(network(sample, time).sample, time, sample).prev_sample
        with aigc_edge.open(tmp_path / "a.aigc", threads=1, size=size) as pipeline:
            found = pipeline.sample(2, latents=latents, output="float32")
        assert psnr(found, (sample / 2 + 0.5).clamp(0, 1).numpy()) > 70


def test_sdxl_is_told_the_size_that_it_makes(tmp_path: Path) -> None:
    network = diffusers.UNet2DConditionModel(
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    conditions = [TensorSpec(name, "condition", "float32", ("N", *shape)) for name, shape in (("a", (5, 16)), ("b", (12,)))]
    shape = ("N", 4, *sides(SIZES, 2))
    taken = (TensorSpec("sample", "sample", "float32", shape), TensorSpec("timestep", "timestep", "float32", ("N",)), *conditions)
    spec = ComponentSpec("denoiser", taken, (TensorSpec("output", "sample", "float32", shape),))
    whole = XlUnet(network, None, 2)

    class Told(torch.nn.Module):
        def forward(self, sample: Any, timestep: Any, hidden: Any, pooled: Any) -> Any:
            return whole(sample, timestep, hidden[..., :8], hidden[..., 8:], pooled)

    module = Told()
    module.whole = whole
    part = SourceComponent(spec, lambda: module, sizes=SIZES)
    given = part.example(3, torch.Generator().manual_seed(0))
    for size in SIZES:
        sample = torch.randn(3, 4, size[0] // 2, size[1] // 2)
        with torch.no_grad():
            own = XlUnet(network, size, 2)(sample, given[1], given[2][..., :8], given[2][..., 8:], given[3])
            torch.testing.assert_close(module(sample, *given[1:]), own, rtol=0, atol=1e-6)
    checks = part.write(tmp_path / "a.onnx")["checks"]
    assert [tuple(check["size"]) for check in checks] == [size for size in SIZES for _ in range(2)]


def test_what_a_folder_cannot_serve(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match=r"the size 24x42 is not supported by sd with several sizes: .* multiples of 4"):
        open_source(str(folder), SourceOptions(size=(16, 16), further_sizes=((24, 42),)))
    for kind, config in (("FluxPipeline", {"_class_name": "FluxTransformer2DModel"}), ("StableDiffusion3Pipeline", {})):
        other = tmp_path / kind
        index = {"_class_name": kind, "transformer": ["diffusers", ""], "vae": ["diffusers", "AutoencoderKL"]}
        index["transformer"][1] = config.get("_class_name", "SD3Transformer2DModel")
        for name, file, content in (
            (".", "model_index.json", index),
            ("transformer", "config.json", {"_class_name": index["transformer"][1]}),
            ("vae", "config.json", {"_class_name": "AutoencoderKL"}),
        ):
            (other / name).mkdir(parents=True, exist_ok=True)
            (other / name / file).write_text(json.dumps(content))
        with pytest.raises(AigcEdgeError, match=rf"several sizes were given for {kind}, but its token positions"):
            open_source(str(other), OPTIONS)
