"""SDXL with its turbo and consistency variants (Podell et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aigc_edge.bundle.sizes import Size
from aigc_edge.sources.base import SourceOptions
from aigc_edge.sources.diffusers.decoders import Vae
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.layout import PIPELINES, Layout, image_sizes, latent_size, same
from aigc_edge.sources.diffusers.schedules import FEW, is_distilled, schedule_of, scheduler_of
from aigc_edge.sources.diffusers.text_encoders import clip, text_of
from aigc_edge.sources.diffusers.unets import TextUnet, config_of, depth_of, part


class XlUnet(TextUnet):
    """SDXL's UNet, with original size = target size and no cropping as conditions, as in diffusers.

    `size` is the height and width; if None, they are computed from the latents, each of which covers `scale` pixels.
    """

    def __init__(self, unet: Any, size: Size | None, scale: int) -> None:
        super().__init__(unet)
        self.time_ids = None if size is None else nn.Buffer(torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32))
        self.scale = scale

    def _time_ids(self, sample: Tensor) -> Tensor:
        if self.time_ids is not None:
            return self.time_ids.expand(sample.shape[0], -1)
        height, width = (sample.new_full((sample.shape[0], 1), side * self.scale) for side in sample.shape[2:])
        corner = sample.new_zeros((sample.shape[0], 2))
        return torch.cat([height, width, corner, height, width], dim=1)

    def forward(  # type: ignore[override]
        self,
        sample: Tensor,
        timestep: Tensor,
        hidden: Tensor,
        hidden_2: Tensor,
        pooled_2: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """As `TextUnet`, with the hidden states [N, L, D] of both encoders and the pooled vector [N, P] of the second."""
        added = {"text_embeds": pooled_2, "time_ids": self._time_ids(sample)}
        return self.evaluate(sample, timestep, torch.cat([hidden, hidden_2], dim=-1), guidance, added)


@PIPELINES.register("StableDiffusionXLPipeline")
def stable_diffusion_xl(folder: Folder, options: SourceOptions) -> Layout:
    """A folder of `unet`, `vae` and two CLIP text encoders, of which the penultimate layers are used."""
    vae = Vae(folder)
    config = config_of(folder, addition="text_time", channels=vae.channels)
    height, width = latent_size(folder.name, options, config.get("sample_size"), vae.factor, vae.factor)
    first = clip(folder, "text_encoder", "tokenizer", hidden="penultimate")
    length = first.tokens.length
    second = clip(folder, "text_encoder_2", "tokenizer_2", hidden="penultimate", pooled=True, projected=True, length=length)
    widths = first.width + second.width
    same(folder.name, "cross_attention_dim of the unet", config.get("cross_attention_dim"), "width of both text encoders", widths)
    expected = 6 * folder.number("unet", config, "addition_time_embed_dim", 256) + second.pooled_width
    declared = config.get("projection_class_embeddings_input_dim")
    same(folder.name, "projection_class_embeddings_input_dim of the unet", declared, "width of sizes and pooled text", expected)
    embedded, few, scheduler = config.get("time_cond_proj_dim") is not None, is_distilled(folder), scheduler_of(folder)
    shape, size = (vae.channels, height, width), (height * vae.factor, width * vae.factor)
    conditions = (*first.conditions, *second.conditions)
    sizes = image_sizes(folder.name, options, size, vae.factor * depth_of(config))
    static_size = None if sizes else size
    denoiser = part(folder, lambda unet: XlUnet(unet, static_size, vae.factor), shape, conditions, embedded, sizes)
    zeros = bool(folder.index.get("force_zeros_for_empty_prompt", True))
    return Layout(
        sample_shape=shape,
        output_shape=(vae.colours, *size),
        components=[first.part, second.part, denoiser, vae.part(height, width, statistics=True, sizes=sizes)],
        scheduler=scheduler,
        steps=FEW[0] if few else 50,
        guidance_scale=5.0 if embedded or not few else 1.0,
        text=text_of([first, second], "zeros" if zeros else "encode", options),
        schedule=schedule_of(scheduler),
        few=FEW if few else (),
        sizes=sizes,
    )
