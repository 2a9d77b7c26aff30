"""GAN: a DCGAN-class generator against a projection discriminator, non-saturating loss with R1.

Radford, Metz and Chintala 2016 (DCGAN); Miyato and Koyama 2018 (projection discriminator); Mescheder, Geiger and Nowozin 2018
(R1); Karras et al. 2020 (lazy regularisation).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.config import option
from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.base import FAMILIES, Augment, Family, ModuleComponent, Objective
from aigc_edge.models.settings import TrainSettings

_COARSEST = 4  # height and width where the generator begins and the discriminator ends


@dataclass(frozen=True)
class GanModel:
    """The generator (and, while training, the discriminator)."""

    size: int = option(help="height and width of the images: 8, 16, 32, 64 …", low=8, high=1024)
    channels: int = option(help="1 for grey, 3 for RGB", low=1)
    num_classes: int = option(help="number of classes, 0 for unconditional", low=0)
    latent: int = option(64, "length of the latent vector", low=1)
    width: int = option(32, "channels at the finest resolution; each coarser one has twice as many", low=4)
    max_width: int = option(256, "no resolution has more channels than this", low=4)

    def widths(self) -> list[int]:
        """Channels of every resolution, from the coarsest (4 × 4) to the finest."""
        levels = (self.size // _COARSEST).bit_length()
        return [min(self.width * 2**level, self.max_width) for level in reversed(range(levels))]


@dataclass(frozen=True)
class GanTraining(TrainSettings):
    """Training settings of the GAN family."""

    steps: int = option(3000, "optimiser steps of each network", low=1)
    batch: int = option(64, "images per step", low=1)
    lr: float = option(1e-3, "peak learning rate of Adam", above=0)
    lr_floor: float = option(0.1, "learning rate at the end, as a share of the peak (cosine decay; 1 = constant)", low=0, high=1)
    beta1: float = option(0.0, "Adam's first decay", low=0, high=0.9999)
    clip: float = option(10.0, "largest gradient norm of a network; larger gradients are scaled down", above=0)
    ema: float = option(10_000.0, "half-life of the averaged weights, in images", above=0)
    r1: float = option(0.2, "weight of the R1 penalty (gamma)", low=0)
    r1_every: int = option(8, "steps between R1 penalties, which are scaled by this number", low=1)


class GanGenerator(nn.Module):
    """sample [N, latent], class_labels int64 [N] → images [N, C, H, W] in [-1, 1].

    Repetition and 3 × 3 convolution instead of DCGAN's transposed convolution: no checkerboard, and engines quantise it. Batch
    norm, because it folds into the convolution when exported.
    """

    def __init__(self, model: GanModel) -> None:
        super().__init__()
        widths = model.widths()
        embedded = min(32, model.latent) if model.num_classes else 0
        self.classes = nn.Embedding(model.num_classes, embedded) if model.num_classes else None
        self.shape = (widths[0], _COARSEST, _COARSEST)
        self.start = nn.Linear(model.latent + embedded, widths[0] * _COARSEST**2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList()
        for before, after in itertools.pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            self.blocks.append(nn.Sequential(nn.Upsample(scale_factor=2.0), convolution, nn.BatchNorm2d(after), nn.ReLU()))
        self.out = nn.Conv2d(widths[-1], model.channels, 3, padding=1)

    def forward(self, sample: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if self.classes is not None:
            sample = torch.cat([sample, self.classes(class_labels)], dim=1)
        x = F.relu(self.norm(self.start(sample).reshape(-1, *self.shape)))
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.out(x))


class Discriminator(nn.Module):
    """images [N, C, H, W], class_labels int64 [N] → logits [N], positive for real."""

    def __init__(self, model: GanModel) -> None:
        super().__init__()
        widths = model.widths()[::-1]
        layers: list[nn.Module] = [nn.Conv2d(model.channels, widths[0], 3, padding=1), nn.LeakyReLU(0.2)]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        features = widths[-1]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * _COARSEST**2, features), nn.LeakyReLU(0.2))
        self.out = nn.Linear(features, 1)
        self.classes = nn.Embedding(model.num_classes, features) if model.num_classes else None
        self.scale = features**-0.5

    def forward(self, images: Tensor, class_labels: Tensor) -> Tensor:
        features = self.body(images)
        logits = self.out(features)[:, 0]
        if self.classes is not None:
            logits = logits + self.scale * (features * self.classes(class_labels)).sum(1)
        return logits


@FAMILIES.register("gan")
class Gan(Family):
    """One-step generation with or without classes (DCGAN): a single evaluation of one network."""

    name = "gan"
    Model = GanModel
    Training = GanTraining

    def __init__(self, model: GanModel) -> None:
        super().__init__(model)
        if model.size & (model.size - 1):
            raise AigcEdgeError(f"a size of {model.size} is not supported by the gan family: give a power of two (16, 32, 64)")
        self.decoder = GanGenerator(model)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return (self.model.latent,)

    @property
    def schedule(self) -> None:
        return None

    def components(self) -> list[ModuleComponent]:
        inputs = [TensorSpec("sample", "sample", "float32", (BATCH, *self.sample_shape))]
        if self.num_classes:
            inputs.append(TensorSpec("class_labels", "class", "int64", (BATCH,)))
        outputs = (TensorSpec("output", "sample", "float32", (BATCH, *self.output_shape)),)

        def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            values = [torch.randn(batch, *self.sample_shape, generator=generator)]
            if self.num_classes:
                values.append(torch.randint(0, self.num_classes, (batch,), generator=generator))
            return tuple(values)

        return [ModuleComponent(ComponentSpec("decoder", tuple(inputs), outputs), self.decoder, example)]

    def objective(self, settings: GanTraining, augment: Augment) -> AdversarialObjective:
        return AdversarialObjective(self, settings, augment)

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] from latents [N, latent]; without classes, labels are ignored."""
        return self.decoder(latents, labels) if self.num_classes else self.decoder(latents)


class AdversarialObjective(Objective):
    """Non-saturating logistic losses (Goodfellow et al. 2014) with R1 on real images every few steps.

    Real and generated images are augmented alike (Zhao et al. 2020), so that the generator learns unaugmented images.
    """

    def __init__(self, family: Gan, settings: GanTraining, augment: Augment) -> None:
        self.family = family
        self.augment = augment
        self.settings = settings
        self.discriminator = Discriminator(family.model)
        self.networks = {"discriminator": self.discriminator, "decoder": family.decoder}

    def _fake(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        latents = torch.randn(len(labels), *self.family.sample_shape, generator=generator).to(labels.device)
        images = self.family.decode(latents, labels)
        return self.augment(images.float(), generator)

    def penalty(self, images: Tensor, labels: Tensor) -> Tensor:
        """R1: half the mean squared norm of the gradient of the logits with respect to real images (float32)."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.discriminator(images, labels).sum(), images, create_graph=True)
            return 0.5 * gradient.square().flatten(1).sum(1).mean()

    def losses(self, images: Tensor, labels: Tensor, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        s = self.settings
        with torch.no_grad():
            fake = self._fake(labels, generator)
        self.discriminator.requires_grad_(True)
        loss = F.softplus(-self.discriminator(images, labels)).mean() + F.softplus(self.discriminator(fake, labels)).mean()
        if s.r1 and step % s.r1_every == 0:
            loss = loss + s.r1 * s.r1_every * self.penalty(images, labels)
        yield "discriminator", loss
        self.discriminator.requires_grad_(False)  # the generator's step needs no gradients of its weights
        yield "decoder", F.softplus(-self.discriminator(self._fake(labels, generator), labels)).mean()

    @torch.no_grad()
    def validation(self, family: Any, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        """The discriminator's loss on held-out real images: it rises when the discriminator overfits."""
        return float(F.softplus(-self.discriminator(images, labels)).mean())
