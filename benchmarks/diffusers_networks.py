"""Networks of diffusers that several benchmarks share, with random weights.

The UNet of ddpm-cifar10-32, DiT-S/2, a generator of 256 × 256 images: a UNet of latents with its decoder; and a whole folder of
Stable Diffusion 1.5.

Torch is imported where a network is made: processes whose memory is measured, and that need no torch, import this too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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


STABLE_DIFFUSION_UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
STABLE_DIFFUSION_VAE = DECODER | {"block_out_channels": (128, 256, 512, 512), "sample_size": 512, "scaling_factor": 0.18215}
WORDS, TOKENS = 49408, 77  # of CLIP


def stable_diffusion(folder: Path) -> None:
    """Write a folder of Stable Diffusion 1.5 to `folder`: its classes, its sizes (1.07 G parameters), random weights, seed 0."""
    import json

    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    plain = [*map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)]), *(chr(256 + n) for n in range(68))]
    words = [*plain, *(f"{letter}</w>" for letter in plain)]  # bytes alone: which words there are changes no cost
    words += [f"unused {n}" for n in range(WORDS - 2 - len(words))] + ["<|startoftext|>", "<|endoftext|>"]
    first, last = words[-2:]
    clip = folder / "clip"
    clip.mkdir(parents=True)
    (clip / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": first, "eos_token": last, "unk_token": last, "pad_token": last}
    (clip / "tokenizer_config.json").write_text(json.dumps(special | {"model_max_length": TOKENS, "do_lower_case": True}))
    text = transformers.CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=WORDS - 2,
        eos_token_id=WORDS - 1,
    )
    unet = diffusers.UNet2DConditionModel(**STABLE_DIFFUSION_UNET)
    unet.conv_out.weight.data *= 0.2  # an untrained network is no denoiser: its rounding would grow with every step
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    pipe = diffusers.StableDiffusionPipeline(
        diffusers.AutoencoderKL(**STABLE_DIFFUSION_VAE),
        transformers.CLIPTextModel(text),
        transformers.CLIPTokenizer.from_pretrained(clip),
        unet,
        diffusers.PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "pipeline")
