"""Decoders from latents to images: AutoencoderKL and the tiny ones, including the scaling of the latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aigc_edge.bundle.sizes import Size, sides
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceComponent
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.loading import load

CLASSES = ("AutoencoderKL", "AutoencoderTiny")


class Decoder(nn.Module):
    """The denoiser's latents [N, C, h, w] → image [N, C, H, W], approximately in [-1, 1]."""

    def __init__(self, vae: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        for unused in ("encoder", "quant_conv"):
            if hasattr(vae, unused):
                delattr(vae, unused)
        self.vae = vae
        self.scale, self.shift = nn.Buffer(scale), nn.Buffer(shift)

    def forward(self, latents: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(latents * self.scale + self.shift, return_dict=False)[0]
        return image


class Vae:
    """The configuration of the folder's `vae`: latent channels, upscaling factor, and the decoder component."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.config = folder.config("vae", CLASSES)
        blocks = self.config.get("block_out_channels") or self.config.get("decoder_block_out_channels") or (64,)
        self.factor = 2 ** (len(blocks) - 1)
        self.channels = folder.number("vae", self.config, "latent_channels", 4)
        self.colours = folder.number("vae", self.config, "out_channels", 3)

    def part(
        self, height: int, width: int, *, shift: bool = False, statistics: bool = False, sizes: Sequence[Size] = ()
    ) -> SourceComponent:
        """The decoder of latents [N, C, height, width]; with `shift` or `statistics` if the pipeline applies them.

        `sizes` are the image sizes if there are several.
        """
        image_sizes = sizes or [(height * self.factor, width * self.factor)]
        shape = (BATCH, self.channels, *sides(image_sizes, self.factor))
        image = (BATCH, self.colours, *sides(image_sizes))
        inputs = (TensorSpec("latents", "sample", "float32", shape),)
        spec = ComponentSpec("decoder", inputs, (TensorSpec("image", "sample", "float32", image),))
        scale, offset = self._scaling(shift, statistics)
        return SourceComponent(spec, lambda: Decoder(load(self.folder, "vae", *CLASSES), scale, offset), sizes=sizes)

    def _scaling(self, shift: bool, statistics: bool) -> tuple[Tensor, Tensor]:
        mean, deviation = self.config.get("latents_mean"), self.config.get("latents_std")
        factor = self._number("scaling_factor", 1.0 if self.config.get("_class_name") == "AutoencoderTiny" else 0.18215)
        if statistics and mean is not None and deviation is not None:
            mean, deviation = (torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1) for values in (mean, deviation))
            if mean.shape[1] != self.channels or deviation.shape != mean.shape:
                raise AigcEdgeError(
                    f"latents_mean and latents_std of {self.folder.name}/vae must hold {self.channels} numbers each"
                )
            return deviation / factor, mean
        return torch.tensor(1 / factor), torch.tensor(self._number("shift_factor", 0.0) if shift else 0.0)

    def _number(self, key: str, default: float) -> float:
        value: Any = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or (key == "scaling_factor" and not value > 0):
            raise AigcEdgeError(f"{key} of {self.folder.name}/vae is {value!r}: it must be a number")
        return float(value)
