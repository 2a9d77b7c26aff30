"""FLUX.1: dev, which embeds the guidance scale, and schnell, which needs none (Black Forest Labs, 2024)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceComponent, SourceOptions
from aigc_edge.sources.diffusers.decoders import Vae
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.layout import PIPELINES, Layout, latent_size, one_size, same
from aigc_edge.sources.diffusers.loading import load
from aigc_edge.sources.diffusers.schedules import FEW, dynamic_shift, is_distilled, schedule_of, scheduler_of
from aigc_edge.sources.diffusers.text_encoders import Encoder, clip, t5, text_of
from aigc_edge.sources.inputs import denoiser_spec

TRANSFORMER = "FluxTransformer2DModel"
T5_LENGTH = 512  # the pipeline's max_sequence_length
DEFAULT_SIZE = 128  # of the latents; the configuration does not specify it


class Rotation(nn.Module):
    """The rotary embedding of text and image positions, a constant since it depends only on the size."""

    def __init__(self, cosines: Tensor, sines: Tensor) -> None:
        super().__init__()
        self.cosines, self.sines = nn.Buffer(cosines), nn.Buffer(sines)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [L, 3] (ignored) → cosines and sines [L, D]."""
        return self.cosines, self.sines


class FluxTransformer(nn.Module):
    """The transformer on unpacked latents: patches of 2 × 2 become one token internally."""

    def __init__(self, transformer: Any, height: int, width: int, texts: int) -> None:
        super().__init__()
        text, image = torch.zeros(texts, 3), torch.zeros(height // 2, width // 2, 3)
        image[..., 1] += torch.arange(height // 2)[:, None]
        image[..., 2] += torch.arange(width // 2)[None, :]
        self.text, self.image = nn.Buffer(text), nn.Buffer(image.reshape(-1, 3))
        transformer.pos_embed = Rotation(*transformer.pos_embed(torch.cat([self.text, self.image])))
        self.transformer = transformer

    def forward(
        self, sample: Tensor, timestep: Tensor, pooled: Tensor, hidden_2: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        """Noisy latents [N, C, H, W], timestep float32 [N] in 0 … 1, pooled text, T5's states, guidance scale → [N, C, H, W]."""
        count, channels, height, width = sample.shape
        tokens = sample.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        output: Tensor = self.transformer(
            hidden_states=tokens.reshape(count, -1, 4 * channels),
            timestep=timestep,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=hidden_2,
            txt_ids=self.text,
            img_ids=self.image,
            return_dict=False,
        )[0]
        output = output.reshape(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return output.reshape(count, channels, height, width)


@PIPELINES.register("FluxPipeline")
def flux(folder: Folder, options: SourceOptions) -> Layout:
    """A folder of `transformer`, `vae`, a CLIP text encoder (pooled output only) and T5."""
    vae, config = Vae(folder), folder.config("transformer", (TRANSFORMER,))
    one_size(folder.name, options, "its token positions and usually its schedule depend on the size")
    height, width = latent_size(folder.name, options, DEFAULT_SIZE, vae.factor, 2 * vae.factor)
    if height % 2 or width % 2:
        raise AigcEdgeError(f"the latents of {folder.name} are {height}x{width}: both must be even")
    encoders = _encoders(folder, config, vae)
    embedded, few, scheduler = bool(config.get("guidance_embeds", False)), is_distilled(folder), scheduler_of(folder)
    shift = dynamic_shift(scheduler, height * width // 4, 1.15)
    shape = (vae.channels, height, width)
    conditions = [condition for encoder in encoders for condition in encoder.conditions]
    denoiser = SourceComponent(
        denoiser_spec(shape, conditions, guidance=embedded),
        lambda: FluxTransformer(load(folder, "transformer", TRANSFORMER), height, width, T5_LENGTH),
        times=(0.0, 1.0),
    )

    def arguments(steps: int) -> dict[str, Any]:
        own = {} if scheduler.config.get("use_flow_sigmas") else {"sigmas": np.linspace(1.0, 1 / steps, steps)}
        return own | ({"mu": shift[0]} if shift else {})

    return Layout(
        sample_shape=shape,
        output_shape=(vae.colours, height * vae.factor, width * vae.factor),
        components=[*(e.part for e in encoders), denoiser, vae.part(height, width, shift=True)],
        scheduler=scheduler,
        steps=FEW[0] if few else 28,
        guidance_scale=3.5 if embedded else 1.0,
        text=text_of(encoders, "encode", options),
        schedule=schedule_of(scheduler, shift[1] if shift else None, 1.0),
        timestep_scale=0.001,
        arguments=arguments,
        few=FEW if few else (),
    )


def _encoders(folder: Folder, config: Any, vae: Vae) -> list[Encoder]:
    first = clip(folder, "text_encoder", "tokenizer", hidden=None, pooled=True)
    second = t5(folder, "text_encoder_2", "tokenizer_2", T5_LENGTH)
    pooled, joint = config.get("pooled_projection_dim", 768), config.get("joint_attention_dim", 4096)
    same(folder.name, "pooled_projection_dim of the transformer", pooled, "width of text_encoder", first.pooled_width)
    same(folder.name, "joint_attention_dim of the transformer", joint, "width of text_encoder_2", second.width)
    channels = folder.number("transformer", config, "in_channels", 64)
    same(folder.name, "in_channels of the transformer", channels, "latent channels of the vae times 4", 4 * vae.channels)
    return [first, second]
