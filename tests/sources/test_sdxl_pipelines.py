"""SDXL folders: two encoders, sizes told to the network, absent negative prompts; beside diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from aigc_edge.sources.base import open_source

LENGTH, SIZE = 10, 8
PROMPTS = ["a red cat on a dog", "THREE dogs"]


@pytest.fixture
def save(tmp_path: Path, clip_tokenizer: Callable[..., None], clip_model: Callable[..., Any]) -> Callable[..., Path]:
    def write(name: str, scheduler: Any, statistics: bool = False, **options: Any) -> Path:
        clip_tokenizer(tmp_path / "first", LENGTH)
        clip_tokenizer(tmp_path / "second", LENGTH, pad="!")
        tokenizers = [CLIPTokenizer.from_pretrained(tmp_path / which) for which in ("first", "second")]
        kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
        network = diffusers.UNet2DConditionModel(
            **kinds,
            sample_size=SIZE,
            block_out_channels=(16,),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=40,
            attention_head_dim=2,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
        )
        network.conv_out.weight.data *= 0.2
        found = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.1, 0.9, 1.2, 1.0]} if statistics else {}
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=0.13025,
            **found,
        )
        encoders = clip_model(LENGTH, 16), clip_model(LENGTH, 24, projection=12)
        pipe = diffusers.StableDiffusionXLPipeline(
            vae, *encoders, *tokenizers, network, scheduler, add_watermarker=False, **options
        )
        pipe.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def wanted(folder: Path, latents: np.ndarray, **options: Any) -> np.ndarray:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(PROMPTS, latents=torch.from_numpy(latents), output_type="pt", **options).images)


def test_sdxl(save: Callable[..., Path], export: Any, rng: np.random.Generator) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1)
    folder = save("sdxl", scheduler)
    source = open_source(str(folder))
    assert (source.steps, source.guidance_scale) == (50, 5.0)
    assert source.text is not None
    assert source.text.negative == "zeros"
    assert {name: tokens.pad for name, tokens in source.text.encoders.items()} == {"text_encoder": 520, "text_encoder_2": 0}
    program = source.programs(None, 8, None)[0]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("decoder", "text_encoder"))
    image = exported.sample(program, latents, prompts=PROMPTS)
    assert exported.psnr(image, wanted(folder, latents, num_inference_steps=8)) > 80
    other = exported.sample(program, latents, prompts=PROMPTS[::-1])
    assert exported.psnr(other, wanted(folder, latents, num_inference_steps=8)) < 75, "prompts must matter"


def test_turbo_takes_few_steps_without_guidance(save: Callable[..., Path], export: Any, rng: np.random.Generator) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
    folder = save("sdxl-turbo", scheduler, statistics=True, force_zeros_for_empty_prompt=False)
    source = open_source(str(folder))
    assert source.text is not None
    assert source.text.negative == "encode"
    programs = source.programs(None, None, None)
    assert [program.name for program in programs] == [f"EulerAncestralDiscrete-{n}" for n in (4, 1, 2, 8)]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    drawn = torch.Generator().manual_seed(5)
    noise = np.stack([torch.randn(latents.shape, generator=drawn).numpy() for _ in range(4)])[: len(programs[0].draws)]
    exported = export(source, torch=("text_encoder", "text_encoder_2", "denoiser", "decoder"))
    image = exported.sample(programs[0], latents, prompts=PROMPTS, noise=noise)
    options = {"guidance_scale": 0.0, "num_inference_steps": 4, "generator": torch.Generator().manual_seed(5)}
    assert exported.psnr(image, wanted(folder, latents, **options)) > 80
    guided = exported.sample(programs[0].with_guidance(3.0), latents, prompts=PROMPTS, noise=noise)
    options = {"guidance_scale": 3.0, "num_inference_steps": 4, "generator": torch.Generator().manual_seed(5)}
    assert exported.psnr(guided, wanted(folder, latents, **options)) > 80
