"""Stable Diffusion 3 and 3.5: a flow transformer with two CLIP encoders and, where the folder has it, T5 (Esser et al. 2024)."""

from __future__ import annotations

from typing import Any

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

TRANSFORMER = "SD3Transformer2DModel"
T5_LENGTH = 256  # the pipeline's max_sequence_length


class Sd3Transformer(nn.Module):
    """The transformer including text assembly: concatenated CLIP states, padded to T5's width, followed by T5's states."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.width = int(transformer.config.joint_attention_dim)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        hidden: Tensor,
        pooled: Tensor,
        hidden_2: Tensor,
        pooled_2: Tensor,
        hidden_3: Tensor | None = None,
    ) -> Tensor:
        """Noisy latents [N, C, H, W], timestep float32 [N] in 0 … 1000, hidden states [N, L, D], pooled vectors [N, P] → output.

        Without T5, its hidden states are zeros, as in diffusers.
        """
        clips = torch.cat([hidden, hidden_2], dim=-1)
        clips = nn.functional.pad(clips, (0, self.width - clips.shape[-1]))
        last = clips.new_zeros(clips.shape[0], T5_LENGTH, self.width) if hidden_3 is None else hidden_3
        text, vector = torch.cat([clips, last], dim=-2), torch.cat([pooled, pooled_2], dim=-1)
        output: Tensor = self.transformer(
            hidden_states=sample, encoder_hidden_states=text, pooled_projections=vector, timestep=timestep, return_dict=False
        )[0]
        return output


@PIPELINES.register("StableDiffusion3Pipeline")
def stable_diffusion_3(folder: Folder, options: SourceOptions) -> Layout:
    """A folder of `transformer`, `vae`, two CLIP text encoders with projections and perhaps T5."""
    vae, config = Vae(folder), folder.config("transformer", (TRANSFORMER,))
    patch = folder.number("transformer", config, "patch_size", 2)
    one_size(folder.name, options, "its token positions and often its schedule depend on the size")
    height, width = latent_size(folder.name, options, config.get("sample_size", 128), vae.factor, vae.factor * patch)
    longest = folder.number("transformer", config, "pos_embed_max_size", 96)
    if max(height, width) > longest * patch:
        most = longest * patch * vae.factor
        raise AigcEdgeError(
            f"the size {height * vae.factor}x{width * vae.factor} is too large for {folder.name}: give at most {most}x{most}"
        )
    encoders = _encoders(folder, config, vae)
    scheduler, few = scheduler_of(folder), is_distilled(folder)
    shift = dynamic_shift(scheduler, (height // patch) * (width // patch), 1.16)
    shape = (vae.channels, height, width)
    spec = denoiser_spec(shape, [condition for encoder in encoders for condition in encoder.conditions])
    denoiser = SourceComponent(spec, lambda: Sd3Transformer(load(folder, "transformer", TRANSFORMER)))
    return Layout(
        sample_shape=shape,
        output_shape=(vae.colours, height * vae.factor, width * vae.factor),
        components=[*(e.part for e in encoders), denoiser, vae.part(height, width, shift=True)],
        scheduler=scheduler,
        steps=FEW[0] if few else 28,
        guidance_scale=1.0 if few else 7.0,
        text=text_of(encoders, "encode", options),
        schedule=schedule_of(scheduler, shift[1] if shift else None, 1000.0),
        arguments=lambda steps: {"mu": shift[0]} if shift else {},
        few=FEW if few else (),
    )


def _encoders(folder: Folder, config: Any, vae: Vae) -> list[Encoder]:
    first = clip(folder, "text_encoder", "tokenizer", hidden="penultimate", pooled=True, projected=True)
    length = first.tokens.length
    second = clip(folder, "text_encoder_2", "tokenizer_2", hidden="penultimate", pooled=True, projected=True, length=length)
    encoders = [first, second]
    joint = folder.number("transformer", config, "joint_attention_dim", 4096)
    if folder.has("text_encoder_3"):
        third = t5(folder, "text_encoder_3", "tokenizer_3", T5_LENGTH)
        same(folder.name, "joint_attention_dim of the transformer", joint, "width of text_encoder_3", third.width)
        encoders.append(third)
    if first.width + second.width > joint:
        raise AigcEdgeError(f"the CLIP encoders of {folder.name} are wider than joint_attention_dim of its transformer, {joint}")
    pooled, pooled_width = config.get("pooled_projection_dim", 2048), first.pooled_width + second.pooled_width
    same(folder.name, "pooled_projection_dim of the transformer", pooled, "width of the pooled texts", pooled_width)
    channels = config.get("in_channels", 16)
    same(folder.name, "in_channels of the transformer", channels, "latent channels of the vae", vae.channels)
    return encoders
