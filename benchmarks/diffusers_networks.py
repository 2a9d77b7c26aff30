"""Networks of diffusers that several benchmarks share, with random weights.

The UNet of ddpm-cifar10-32, DiT-S/2, and a generator of 256 × 256 images: a UNet of latents with its decoder.

Torch is imported where a network is made: processes whose memory is measured, and that need no torch, import this too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

UNET = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
DIT = {"num_attention_heads": 6, "attention_head_dim": 64, "in_channels": 4, "num_layers": 12, "sample_size": 32, "patch_size": 2}
LATENT = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (192, 384, 576),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 64,
}
DECODER = {
    "latent_channels": 4,
    "block_out_channels": (64, 128, 256, 256),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SHAPES = {"unet": (3, 32, 32), "dit": (4, 32, 32), "latent": (4, 32, 32)}  # of one sample
CLASSES = {"unet": 0, "dit": 1000, "latent": 0}


def plain(inner: nn.Module, channels: int) -> nn.Module:
    """A network of diffusers as (sample, timestep[, class_labels]) → output, the first `channels` of it."""
    from torch import nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
            given = {} if class_labels is None else {"class_labels": class_labels}
            made: Tensor = self.inner(sample, timestep, return_dict=False, **given)[0]
            return made if made.shape[1] == channels else made[:, :channels]

    return Plain()


def network(name: str) -> nn.Module:
    """The UNet of 36 M parameters, the DiT of 33 M or the UNet of latents of 74 M, seed 0."""
    import diffusers
    import torch

    torch.manual_seed(0)
    made = {
        "unet": lambda: diffusers.UNet2DModel(**UNET),
        "dit": lambda: diffusers.DiTTransformer2DModel(**DIT, out_channels=4),
        "latent": lambda: diffusers.UNet2DModel(**LATENT),
    }
    return plain(made[name](), SHAPES[name][0])


def decoder(name: str) -> nn.Module | None:
    """What makes images [N, 3, 256, 256] of the latents, where `network` gives latents that are to be decoded."""
    if name != "latent":
        return None
    import diffusers
    from torch import nn

    class Decode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            vae = diffusers.AutoencoderKL(**DECODER)
            self.post, self.decoder = vae.post_quant_conv, vae.decoder

        def forward(self, latents: Tensor) -> Tensor:
            made: Tensor = self.decoder(self.post(latents))
            return made

    return Decode()
