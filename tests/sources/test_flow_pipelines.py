"""SD3 and FLUX folders: flow transformers with CLIP and T5, beside diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from aigc_edge.sources.base import SourceOptions, open_source

LENGTH, SIZE = 10, 8
PROMPTS = ["a red cat on a dog", "three dogs on 3 cats"]


def vae(channels: int, levels: int = 2) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=4,
        latent_channels=channels,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@pytest.fixture
def save_sd3(tmp_path: Path, clip_tokenizer: Any, clip_model: Any, t5_tokenizer: Any, t5_model: Any) -> Callable[..., Path]:
    def write(name: str, scheduler: Any, with_t5: bool, **config: Any) -> Path:
        clip_tokenizer(tmp_path / "clip", LENGTH)
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "clip")
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=SIZE,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=32,
            pooled_projection_dim=20,
            out_channels=4,
            pos_embed_max_size=8,
            **config,
        )
        third = (
            {"text_encoder_3": t5_model(32), "tokenizer_3": t5_tokenizer()}
            if with_t5
            else dict.fromkeys(("text_encoder_3", "tokenizer_3"))
        )
        pipe = diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=scheduler,
            vae=vae(4),
            text_encoder=clip_model(LENGTH, 12, projection=8),
            tokenizer=tokenizer,
            text_encoder_2=clip_model(LENGTH, 16, projection=12),
            tokenizer_2=tokenizer,
            **third,
        )
        pipe.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def wanted(kind: Any, folder: Path, latents: torch.Tensor, **options: Any) -> np.ndarray:
    absent = (
        {}
        if (folder / "tokenizer_3").exists() or kind is diffusers.FluxPipeline
        else {"text_encoder_3": None, "tokenizer_3": None}
    )
    pipe = kind.from_pretrained(folder, **absent)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(PROMPTS, latents=latents, output_type="pt", **options).images)


def test_sd3(save_sd3: Callable[..., Path], export: Any, rng: np.random.Generator) -> None:
    folder = save_sd3("sd3", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), True, qk_norm="rms_norm")
    source = open_source(str(folder))
    assert (source.steps, source.guidance_scale) == (28, 7.0)
    programs = source.programs(None, None, None)
    assert programs[0].name == "FlowMatchEulerDiscrete-28"
    assert "euler-10" in [program.name for program in programs]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("text_encoder", "text_encoder_2", "decoder"))
    image = exported.sample(programs[0], latents, prompts=PROMPTS)
    result = wanted(diffusers.StableDiffusion3Pipeline, folder, torch.from_numpy(latents))
    assert exported.psnr(image, result) > 80
    assert exported.psnr(exported.sample(programs[0], latents, prompts=PROMPTS[::-1]), result) < 75, "prompts must matter"


def test_sd3_without_t5_and_with_a_shift_by_size(save_sd3: Callable[..., Path], export: Any, rng: np.random.Generator) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    folder = save_sd3("sd35", scheduler, False)
    source = open_source(str(folder), SourceOptions(size=(16, 24)))
    assert source.sample_shape == (4, 8, 12)
    program = source.programs(None, 7, 4.0)[0]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("text_encoder", "text_encoder_2", "denoiser", "decoder"))
    image = exported.sample(program, latents, prompts=PROMPTS)
    options = {"num_inference_steps": 7, "guidance_scale": 4.0, "height": 16, "width": 24}
    result = wanted(diffusers.StableDiffusion3Pipeline, folder, torch.from_numpy(latents), **options)
    assert exported.psnr(image, result) > 80


@pytest.mark.parametrize("name", ["FLUX.1-dev", "FLUX.1-schnell"])
def test_flux(
    name: str,
    tmp_path: Path,
    clip_tokenizer: Any,
    clip_model: Any,
    t5_tokenizer: Any,
    t5_model: Any,
    export: Any,
    compiled: Any,
    rng: np.random.Generator,
) -> None:
    dev = name.endswith("dev")
    clip_tokenizer(tmp_path / "clip", LENGTH)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        guidance_embeds=dev,
        axes_dims_rope=(4, 4, 8),
    )
    shifts = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64} if dev else {}
    diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**shifts),
        vae=vae(4),
        text_encoder=clip_model(LENGTH, 16),
        tokenizer=CLIPTokenizer.from_pretrained(tmp_path / "clip"),
        text_encoder_2=t5_model(24),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    ).save_pretrained(tmp_path / name)
    source = open_source(str(tmp_path / name), SourceOptions(size=(16, 24)))
    assert (source.steps, source.guidance_scale) == ((28, 3.5) if dev else (4, 1.0))
    program = source.programs(None, 6 if dev else 4, None)[0]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("decoder", "text_encoder", "text_encoder_2", *(() if dev else ("denoiser",))))
    image = exported.sample(program, latents, prompts=PROMPTS)
    packed = diffusers.FluxPipeline._pack_latents(torch.from_numpy(latents), *latents.shape)
    options = {"num_inference_steps": program.nfe, "height": 16, "width": 24, "guidance_scale": 3.5}
    result = wanted(diffusers.FluxPipeline, tmp_path / name, packed, **options)
    assert exported.psnr(image, result) > 80
    assert exported.psnr(exported.sample(program, latents, prompts=PROMPTS[::-1]), result) < 75, "prompts must matter"
    if dev:  # told the guidance scale, by the native runtime
        assert exported.psnr(compiled(source, 6, latents, PROMPTS), result) > 80
