"""Folders compiled for several image sizes: every size beside diffusers' own pipeline at that size, from the same noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import aigc_edge
from aigc_edge.compile import compile_source
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions

LENGTH, WIDTH = 12, 16
PROMPTS = ["a red cat on a dog", "dogs"]
SIZES = [(16, 16), (24, 40)]
OPTIONS = SourceOptions(size=SIZES[0], further_sizes=tuple(SIZES[1:]))


def unet() -> diffusers.UNet2DConditionModel:
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
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
    pipe = diffusers.StableDiffusionPipeline(vae(), clip_model(LENGTH, WIDTH), tokenizer, unet(), scheduler, **extra)
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
            assert psnr(found, wanted) > 80
    with aigc_edge.open(bundle, threads=1) as pipeline:
        assert pipeline.size == SIZES[0]
    with pytest.raises(AigcEdgeError, match="has no size 32x32: choose one of 16x16, 24x40"):
        aigc_edge.open(bundle, size=(32, 32))
