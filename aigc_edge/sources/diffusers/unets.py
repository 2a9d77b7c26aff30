"""UNet2DConditionModel with the conditions of Stable Diffusion and SDXL, and the guidance scale where the network embeds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aigc_edge.bundle.sizes import Size, sides
from aigc_edge.bundle.spec import TensorSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceComponent
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.layout import same
from aigc_edge.sources.diffusers.loading import load
from aigc_edge.sources.inputs import denoiser_spec

UNET = "UNet2DConditionModel"


class GuidanceEmbedding(nn.Module):
    """Sines and cosines of a guidance scale, for networks distilled from guided ones (Meng et al. 2023; Luo et al. 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        step = torch.log(torch.tensor(10000.0)) / (half - 1)
        self.frequencies = nn.Buffer(torch.exp(torch.arange(half, dtype=torch.float32) * -step))
        self.odd = width % 2

    def forward(self, guidance: Tensor) -> Tensor:
        """Guidance scale [N], 1 for none → embedding [N, width]."""
        angles = ((guidance - 1) * 1000)[:, None] * self.frequencies[None]
        return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, self.odd))


class TextUnet(nn.Module):
    """Stable Diffusion's UNet."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config.time_cond_proj_dim
        self.guidance = None if width is None else GuidanceEmbedding(width)

    def evaluate(self, sample: Tensor, time: Tensor, hidden: Tensor, guidance: Tensor | None, added: Any = None) -> Tensor:
        """The UNet's own forward, with the guidance scale as an input if the network embeds it."""
        embedded_guidance = None if self.guidance is None or guidance is None else self.guidance(guidance)
        output: Tensor = self.unet(
            sample,
            time,
            encoder_hidden_states=hidden,
            timestep_cond=embedded_guidance,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return output

    def forward(self, sample: Tensor, timestep: Tensor, hidden: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Noisy latents [N, C, H, W], timestep float32 [N], hidden states [N, L, D], guidance scale [N] → [N, C, H, W]."""
        return self.evaluate(sample, timestep, hidden, guidance)


def config_of(folder: Folder, *, addition: str | None, channels: int) -> Mapping[str, Any]:
    """The configuration of the folder's `unet`, which takes text and `addition` as inputs; raises AigcEdgeError otherwise."""
    config = folder.config("unet", (UNET,))
    for key, required in (("class_embed_type", None), ("encoder_hid_dim_type", None), ("addition_embed_type", addition)):
        if config.get(key) != required:
            raise AigcEdgeError(
                f"the unet of {folder.name} has {key} {config.get(key)!r}, which is not supported in a {folder.kind}: it must "
                f"be {required!r}"
            )
    in_channels = folder.number("unet", config, "in_channels", 4)
    same(folder.name, "in_channels of the unet", in_channels, "latent channels of the vae", channels)
    same(folder.name, "out_channels of the unet", config.get("out_channels", 4), "latent channels of the vae", channels)
    return config


def depth_of(config: Mapping[str, Any]) -> int:
    """Total downsampling factor of the network, of which all sides must be multiples."""
    return int(2 ** (len(config.get("block_out_channels", (0, 0, 0, 0))) - 1))


def part(
    folder: Folder,
    wrap: Any,
    shape: tuple[int, int, int],
    conditions: Sequence[TensorSpec],
    guided: bool,
    sizes: Sequence[Size] = (),
) -> SourceComponent:
    """The denoiser of latents [N, *shape] with `conditions`, and a guidance scale if the network embeds it.

    `sizes` are the image sizes if there are several.
    """
    latents = (shape[0], *(sides(sizes, sizes[0][0] // shape[1]) if sizes else shape[1:]))
    spec = denoiser_spec(latents, conditions, guidance=guided)
    return SourceComponent(spec, lambda: wrap(load(folder, "unet", UNET)), sizes=sizes)
