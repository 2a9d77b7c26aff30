"""Diffusion: a class-conditional UNet with EDM preconditioning (Karras, Aittala, Aila and Laine, NeurIPS 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.config import option
from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.base import FAMILIES, Augment, Family, ModuleComponent, Objective
from aigc_edge.models.settings import TrainSettings
from aigc_edge.nn.unet import UNet


@dataclass(frozen=True)
class DiffusionModel:
    """Settings of the network and its sampling schedule."""

    size: int = option(help="height and width of the images", low=4)
    channels: int = option(help="1 for grey, 3 for RGB", low=1)
    num_classes: int = option(help="number of classes, 0 for unconditional", low=0)
    widths: tuple[int, ...] = option((48, 96), "channels of each resolution level, finest first", low=4)
    blocks: tuple[int, ...] = option((2, 2), "residual blocks of each level", low=1)
    attention: tuple[int, ...] = option((), "levels with self-attention, 0 = finest", low=0)
    patch: int = option(2, "downsampling factor of the first convolution", low=1, high=16)
    embedding: int = option(96, "width of the embedding of noise level and class", low=8)
    sigma_data: float = option(
        0.5, "standard deviation of the data in [-1, 1]; measured from the training data by default", above=0
    )
    sigma_min: float = option(0.002, "smallest noise level of the schedule", above=0)
    sigma_max: float = option(80.0, "largest noise level of the schedule", above=0)
    rho: float = option(7.0, "exponent of the schedule; larger values favour low noise", above=0)


@dataclass(frozen=True)
class DiffusionTraining(TrainSettings):
    """Training settings of the diffusion family."""

    p_mean: float = option(-0.8, "mean of ln(sigma) in training")
    p_std: float = option(1.2, "standard deviation of ln(sigma) in training", above=0)
    class_dropout: float = option(
        0.1, "fraction of images trained without their class, for classifier-free guidance", low=0, high=1
    )


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in, c_noise) of the noise levels sigma: EDM, table 1; D(x) = c_skip x + c_out F(c_in x, c_noise)."""
    variance = sigma**2 + sigma_data**2
    return sigma_data**2 / variance, sigma * sigma_data * variance.rsqrt(), variance.rsqrt(), sigma.log() / 4


@FAMILIES.register("diffusion")
class Diffusion(Family):
    """Denoises step by step, with or without classes (EDM): best image quality, several evaluations of one network.

    The exported network is F alone; the preconditioning is part of the sampling program's rows.
    """

    name = "diffusion"
    Model = DiffusionModel
    Training = DiffusionTraining

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__(model)
        factor = model.patch * 2 ** (len(model.widths) - 1)
        if len(model.blocks) != len(model.widths):
            raise AigcEdgeError(
                f"blocks has {len(model.blocks)} entries and widths {len(model.widths)}: give one of each per level"
            )
        if any(level >= len(model.widths) for level in model.attention):
            raise AigcEdgeError(f"attention lists level {max(model.attention)}: give levels from 0 to {len(model.widths) - 1}")
        if model.size % factor:
            raise AigcEdgeError(f"a size of {model.size} does not fit patch and levels: give a multiple of {factor}")
        self.denoiser = UNet(
            model.channels,
            model.num_classes,
            widths=model.widths,
            blocks=model.blocks,
            attention=model.attention,
            patch=model.patch,
            embedding=model.embedding,
        )

    @classmethod
    def for_data(cls, images: npt.NDArray[np.uint8], num_classes: int) -> dict[str, Any]:
        # EDM's 0.5 is right for photographs; ink on paper spreads further.
        spread = float(np.std(images, dtype=np.float64)) / 127.5
        return super().for_data(images, num_classes) | {"sigma_data": round(max(spread, 0.05), 3)}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.output_shape

    @property
    def schedule(self) -> dict[str, Any]:
        keys = ("sigma_data", "sigma_min", "sigma_max", "rho")
        return {"prediction": "edm"} | {key: getattr(self.model, key) for key in keys}

    def components(self) -> list[ModuleComponent]:
        shape: tuple[str | int, ...] = (BATCH, *self.sample_shape)
        inputs = [TensorSpec("sample", "sample", "float32", shape), TensorSpec("timestep", "timestep", "float32", (BATCH,))]
        if self.num_classes:
            inputs.append(TensorSpec("class_labels", "class", "int64", (BATCH,)))
        outputs = (TensorSpec("output", "sample", "float32", shape),)

        def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            sigma = torch.randn(batch, generator=generator).mul(1.5).exp()
            values = [torch.randn(batch, *self.sample_shape, generator=generator), sigma.log() / 4]
            if self.num_classes:  # the null class included
                values.append(torch.randint(0, self.num_classes + 1, (batch,), generator=generator))
            return tuple(values)

        return [ModuleComponent(ComponentSpec("denoiser", tuple(inputs), outputs), self.denoiser, example)]

    def network(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """F(sample [N, C, H, W], timestep [N], labels int64 [N] or None) → [N, C, H, W]; without classes, labels are ignored."""
        return self.denoiser(sample, timestep, labels) if self.num_classes else self.denoiser(sample, timestep)

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """D(x [N, C, H, W]; sigma [N]): the estimate of the clean image."""
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, self.model.sigma_data)
        skip, out, scale = (c.view(-1, 1, 1, 1) for c in (c_skip, c_out, c_in))
        return skip * x + out * self.network(scale * x, c_noise, labels)

    def objective(self, settings: DiffusionTraining, augment: Augment) -> DenoisingObjective:
        return DenoisingObjective(self, settings)


class DenoisingObjective(Objective):
    """EDM's loss: λ(σ) |D(y + σn; σ) - y|² with λ = 1/c_out², written for F, where every weight is 1."""

    def __init__(self, family: Diffusion, settings: DiffusionTraining) -> None:
        self.family = family
        self.settings = settings
        self.networks = {"denoiser": family.denoiser}

    @staticmethod
    def loss(family: Diffusion, images: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Mean over all elements of |F - (y - c_skip x)/c_out|², the weighted denoising error at noise levels sigma [N]."""
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, family.model.sigma_data)
        skip, out, scale = (c.view(-1, 1, 1, 1) for c in (c_skip, c_out, c_in))
        x = images + sigma.view(-1, 1, 1, 1) * noise
        return (family.network(scale * x, c_noise, labels).float() - (images - skip * x) / out).square().mean()

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise levels [N] and noise [N, C, H, W] for a batch.

        The levels are stratified (one from each of N equal shares of the log-normal distribution): the same distribution, less
        variance of the loss.
        """
        count = len(images)
        share = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        normal = math.sqrt(2) * torch.erfinv((2 * share - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        sigma = (self.settings.p_mean + self.settings.p_std * normal).exp()
        return sigma.to(images.device), torch.randn(images.shape, generator=generator).to(images.device)

    def losses(self, images: Tensor, labels: Tensor, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        sigma, noise = self.draw(images, generator)
        hidden = torch.rand(len(images), generator=generator) < self.settings.class_dropout
        labels = labels.masked_fill(hidden.to(labels.device), self.family.num_classes)
        yield "denoiser", self.loss(self.family, images, labels, sigma, noise)

    @torch.no_grad()
    def validation(self, family: Diffusion, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        """The loss of held-out images with their classes."""
        return float(self.loss(family, images, labels, *self.draw(images, generator)))
