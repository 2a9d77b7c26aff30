"""Unconditional folders: a full sample of the exported network and the imported program against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from aigc_edge.sources.base import SourceOptions, open_source

SIZE = 8


def unet(gain: float = 0.1, **config: object) -> diffusers.UNet2DModel:
    common = {"sample_size": SIZE, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    kinds = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    made = diffusers.UNet2DModel(**common, **kinds, attention_head_dim=8, **config)
    made.conv_out.weight.data *= gain  # an untrained network is no denoiser: its rounding would grow with every step
    return made


def draws(shape: tuple[int, ...], count: int) -> tuple[torch.Generator, np.ndarray, np.ndarray]:
    """A generator, and the latents and noises that a pipeline will draw from it."""
    first = torch.Generator().manual_seed(3)
    noise = np.stack([torch.randn(shape, generator=first).numpy() for _ in range(count + 1)])
    return torch.Generator().manual_seed(3), noise[0], noise[1:]


def test_ddpm(tmp_path: Path, export: Any) -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True)
    diffusers.DDPMPipeline(unet(in_channels=1, out_channels=1), scheduler).save_pretrained(tmp_path / "ddpm")
    source = open_source(str(tmp_path / "ddpm"))
    assert (source.steps, source.sample_shape, source.num_classes) == (1000, (1, SIZE, SIZE), 0)
    program = source.programs(None, 12, None)[0]
    assert program.name == "DDPM-12"
    generator, latents, noise = draws((2, 1, SIZE, SIZE), len(program.draws))
    exported = export(source, torch=("denoiser",))
    image = exported.sample(program, latents, noise=noise)
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ddpm")
    wanted = pipe(batch_size=2, num_inference_steps=12, generator=generator, output_type="pt").images.numpy()
    assert exported.psnr(image, wanted) > 80


def test_ddim(tmp_path: Path, export: Any) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=True)
    diffusers.DDIMPipeline(unet(0.03, in_channels=3, out_channels=3), scheduler).save_pretrained(tmp_path / "ddim")
    source = open_source(str(tmp_path / "ddim"), SourceOptions(size=(12, 16)))
    assert source.output_shape == (3, 12, 16)
    source = open_source(str(tmp_path / "ddim"))
    programs = source.programs(None, None, None)
    assert [programs[0].name, programs[0].nfe] == ["DDIM-50", 50]
    generator, latents, _ = draws((3, 3, SIZE, SIZE), 0)
    exported = export(source, torch=("denoiser",))
    image = exported.sample(programs[0], latents)
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "ddim")
    wanted = pipe(batch_size=3, generator=generator, output_type="pt").images.numpy()
    assert exported.psnr(image, wanted) > 80


def test_consistency_with_classes(tmp_path: Path, export: Any) -> None:
    scheduler = diffusers.CMStochasticIterativeScheduler()
    network = unet(2.0, in_channels=3, out_channels=3, num_class_embeds=5, resnet_time_scale_shift="scale_shift")
    diffusers.ConsistencyModelPipeline(network, scheduler).save_pretrained(tmp_path / "cm")
    source = open_source(str(tmp_path / "cm"))
    programs = source.programs(None, None, None)
    assert [program.nfe for program in programs] == [1, 2, 4]
    assert source.num_classes == 5
    exported = export(source)
    classes = np.array([4, 0])
    pipe = diffusers.ConsistencyModelPipeline.from_pretrained(tmp_path / "cm")
    for program in programs[:2]:
        generator, latents, noise = draws((2, 3, SIZE, SIZE), len(program.draws))
        image = exported.sample(program, latents, given={"class_labels": classes}, noise=noise)
        wanted = pipe(2, classes.tolist(), num_inference_steps=program.nfe, generator=generator, output_type="pt").images.numpy()
        assert exported.psnr(image, wanted) > 80
    with pytest.raises(Exception, match="no schedule"):
        source.programs("euler", 4, None)


def test_no_class_adds_nothing_to_the_embedding_of_the_time(tmp_path: Path) -> None:
    network = unet(in_channels=1, out_channels=1, num_class_embeds=2)
    diffusers.ConsistencyModelPipeline(network, diffusers.CMStochasticIterativeScheduler()).save_pretrained(tmp_path / "cm")
    part = open_source(str(tmp_path / "cm")).components()[0]
    network.class_embedding.weight.data.zero_()
    sample, time = torch.randn(1, 1, SIZE, SIZE), torch.tensor([250.0])
    with torch.no_grad():
        wanted = network(sample, time, class_labels=torch.tensor([0])).sample
        torch.testing.assert_close(part.module(sample, time, torch.tensor([2])), wanted, rtol=0, atol=1e-6)
