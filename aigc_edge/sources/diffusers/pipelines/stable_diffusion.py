"""Stable Diffusion 1.x and 2.x, and latent consistency models of it, whose network embeds the guidance scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions
from aigc_edge.sources.diffusers.decoders import Vae
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.layout import PIPELINES, Layout, image_sizes, latent_size, same
from aigc_edge.sources.diffusers.schedules import FEW, is_distilled, schedule_of, scheduler_of
from aigc_edge.sources.diffusers.text_encoders import clip, text_of
from aigc_edge.sources.diffusers.unets import TextUnet, config_of, depth_of, part

# The pipeline overrides these members of its scheduler's configuration.
_CHANGES: Mapping[str, Any] = {"steps_offset": 1, "clip_sample": False}


def _sample_size(config: Mapping[str, Any]) -> Any:
    """The UNet's sample_size; configurations of early versions specify less than the 64 used in training."""
    size, version = config.get("sample_size"), re.match(r"(\d+)\.(\d+)", str(config.get("_diffusers_version", "")))
    old = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    return 64 if old and isinstance(size, int) and size < 64 else size


@PIPELINES.register("StableDiffusionPipeline")
@PIPELINES.register("LatentConsistencyModelPipeline")
def stable_diffusion(folder: Folder, options: SourceOptions) -> Layout:
    """A folder of `unet`, `vae`, one CLIP text encoder and its tokenizer (Rombach et al. 2022; Luo et al. 2023)."""
    vae = Vae(folder)
    config = config_of(folder, addition=None, channels=vae.channels)
    consistency = folder.kind == "LatentConsistencyModelPipeline"
    default_size = config.get("sample_size") if consistency else _sample_size(config)
    height, width = latent_size(folder.name, options, default_size, vae.factor, vae.factor)
    encoder = clip(folder, "text_encoder", "tokenizer", hidden="last")
    width_of_text = config.get("cross_attention_dim", 1280)
    same(folder.name, "cross_attention_dim of the unet", width_of_text, "hidden_size of the text_encoder", encoder.width)
    embedded = config.get("time_cond_proj_dim") is not None
    if consistency and not embedded:
        raise AigcEdgeError(
            f"the unet of {folder.name} embeds no guidance scale (time_cond_proj_dim), which a {folder.kind} needs"
        )
    few, changes = consistency or is_distilled(folder), {} if consistency else _CHANGES
    scheduler = scheduler_of(folder, **changes)
    shape = (vae.channels, height, width)
    sizes = image_sizes(folder.name, options, (height * vae.factor, width * vae.factor), vae.factor * depth_of(config))
    return Layout(
        sample_shape=shape,
        output_shape=(vae.colours, height * vae.factor, width * vae.factor),
        components=[
            encoder.part,
            part(folder, TextUnet, shape, encoder.conditions, embedded, sizes),
            vae.part(height, width, sizes=sizes),
        ],
        scheduler=scheduler,
        steps=FEW[0] if few else 50,
        guidance_scale=8.5 if embedded else 1.0 if few else 7.5,
        text=text_of([encoder], "encode", options),
        schedule=schedule_of(scheduler),
        few=FEW if few else (),
        sizes=sizes,
    )
