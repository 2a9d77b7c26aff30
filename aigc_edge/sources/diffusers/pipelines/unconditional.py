"""Pipelines of one UNet2DModel in pixels: DDPM, DDIM and consistency models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aigc_edge.bundle.sizes import sides
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceComponent, SourceOptions
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.layout import PIPELINES, Layout, image_sizes, latent_size
from aigc_edge.sources.diffusers.loading import load
from aigc_edge.sources.diffusers.schedules import clip_of, schedule_of, scheduler_of
from aigc_edge.sources.inputs import denoiser_spec

UNET = "UNet2DModel"
_STEPS = {"DDPMPipeline": 1000, "DDIMPipeline": 50, "ConsistencyModelPipeline": 1}


class Unconditional(nn.Module):
    """A UNet2DModel that takes its timestep as float32, and the index after the last class as the null class."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        embedding = unet.class_embedding
        if embedding is not None:  # one more row of zeros: the null class adds nothing
            widened = nn.Embedding(embedding.num_embeddings + 1, embedding.embedding_dim)
            widened.weight.data = torch.cat([embedding.weight.data, torch.zeros(1, embedding.embedding_dim)])
            unet.class_embedding = widened
        self.unet, self.indexed = unet, unet.config.time_embedding_type == "learned"

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Noisy sample [N, C, H, W], timestep float32 [N], classes int64 [N] → what the network predicts [N, C, H, W]."""
        time = timestep.round().long() if self.indexed else timestep
        output: Tensor = self.unet(sample, time, class_labels=class_labels, return_dict=False)[0]
        return output


@PIPELINES.register("DDPMPipeline")
@PIPELINES.register("DDIMPipeline")
@PIPELINES.register("ConsistencyModelPipeline")
def unconditional(folder: Folder, options: SourceOptions) -> Layout:
    """A folder of `unet` and `scheduler`: the sample is the image, -1 … 1; with classes if the UNet has a class embedding."""
    config = folder.config("unet", (UNET,))
    channels, out = folder.number("unet", config, "in_channels", 3), folder.number("unet", config, "out_channels", 3)
    if out != channels:
        raise AigcEdgeError(
            f"the unet of {folder.name} takes {channels} channels and returns {out}: networks that also predict their variance "
            "or take further input channels cannot be compiled"
        )
    if config.get("class_embed_type") is not None:
        kind = config["class_embed_type"]
        raise AigcEdgeError(
            f"the unet of {folder.name} embeds {kind!r} instead of classes: only a class embedding table can be compiled"
        )
    classes = folder.number("unet", config, "num_class_embeds", 1) if config.get("num_class_embeds") is not None else 0
    levels = len(config.get("block_out_channels", (0, 0, 0, 0)))
    height, width = latent_size(folder.name, options, config.get("sample_size"), 1, 2 ** (levels - 1))
    shape = (channels, height, width)
    sizes = image_sizes(folder.name, options, (height, width), 2 ** (levels - 1))
    scheduler = scheduler_of(folder, kind="DDIMScheduler" if folder.kind == "DDIMPipeline" else None)
    spec = denoiser_spec((channels, *sides(sizes or [(height, width)])), classes=classes > 0)
    few = (1, 2, 4) if folder.kind == "ConsistencyModelPipeline" else ()
    return Layout(
        sample_shape=shape,
        output_shape=shape,
        components=[
            SourceComponent(
                spec,
                lambda: Unconditional(load(folder, "unet", UNET)),
                sizes=sizes,
                classes=classes + 1,  # the last is the null class
            )
        ],
        scheduler=scheduler,
        steps=_STEPS[folder.kind],
        num_classes=classes,
        schedule=schedule_of(scheduler),
        few=few,
        clip=clip_of(scheduler),
        sizes=sizes,
    )
