"""Training state and the training step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_edge.data import ImageSet
from aigc_edge.data.augment import augment
from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.base import Family
from aigc_edge.models.settings import TrainSettings
from aigc_edge.train.ema import Ema

# Purpose of random numbers, part of every seed, so that no two uses share a stream.
_STEP, _ORDER, _VALIDATION = range(3)


def generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded from all `parts`, each at least 0."""
    state = np.random.SeedSequence(parts).generate_state(2, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def pick_device(settings: TrainSettings) -> torch.device:
    """The device of the settings; raises AigcEdgeError when it is not available."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise AigcEdgeError("device cuda was requested, but torch finds no CUDA device here: use --device cpu or auto")
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


class Trainer:
    """Networks, optimisers, averaged weights and the number of steps done.

    All randomness is a function of (seed, step), so this state is complete: a trainer restored from it continues
    exactly like one that was never interrupted.
    """

    def __init__(self, family: Family, settings: Any, training: ImageSet, held_out: ImageSet) -> None:
        self.device = pick_device(settings)
        self.settings = settings
        self.seed: int = settings.seed
        self.family = family.to(self.device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # initial weights of networks that only training needs
            self.objective = family.objective(settings, self._augment)
        self.optimizers: dict[str, torch.optim.AdamW] = {}
        for name, network in self.objective.networks.items():
            network.to(self.device).train()
            self.optimizers[name] = torch.optim.AdamW(
                network.parameters(),
                settings.lr,
                (settings.beta1, settings.beta2),
                weight_decay=settings.weight_decay,
                fused=True,
            )
        self.ema = Ema(family, settings.ema, settings.ema_rampup)
        self.images, self.labels = self._tensors(training)
        self.held_images, self.held_labels = self._tensors(held_out)
        self.autocast = settings.precision == "bfloat16" or (settings.precision == "auto" and self.device.type == "cuda")
        self.step = 0
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def _tensors(self, data: ImageSet) -> tuple[Tensor, Tensor]:
        # Stored as bytes; converted to floats per batch.
        return torch.from_numpy(data.images).to(self.device), torch.from_numpy(data.labels).to(self.device)

    def _augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        s = self.settings
        return augment(images, rng, flip=s.flip, shift=s.shift, rotate=s.rotate, zoom=s.zoom)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, _ORDER, epoch])
            self._epoch = (epoch, rng.permutation(len(self.images)))
        return self._epoch[1]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 [N, C, H, W] in [-1, 1] and labels of a step; each epoch visits all images in random order."""
        count = len(self.images)
        positions = np.arange(step * self.settings.batch, (step + 1) * self.settings.batch)
        chosen = torch.from_numpy(np.array([self._order(int(p) // count)[int(p) % count] for p in positions])).to(self.device)
        return self.images[chosen].float() / 127.5 - 1, self.labels[chosen]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to `lr_floor` of the peak at the last step."""
        s = self.settings
        warm = min(1.0, (step + 1) / s.warmup) if s.warmup else 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / s.steps)))
        return s.lr * warm * (s.lr_floor + (1 - s.lr_floor) * cosine)

    def advance(self) -> dict[str, float]:
        """Do one step; returns the loss of each network. Raises AigcEdgeError when one is not finite."""
        s, rng = self.settings, generator(self.seed, _STEP, self.step)
        images, labels = self.batch(self.step)
        images = self._augment(images, rng)
        steps = self.objective.losses(images, labels, self.step, rng)
        values: dict[str, float] = {}
        while True:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                item = next(steps, None)
            if item is None:
                break
            name, loss = item
            values[name] = self._update(name, loss)
        self.step += 1
        self.ema.update(self.family, self.step * s.batch, s.batch)
        return values

    def _update(self, name: str, loss: Tensor) -> float:
        network, optimizer = self.objective.networks[name], self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise AigcEdgeError(
                f"training diverged at step {self.step + 1}: the loss of the {name} is {value}, its gradient norm {float(norm)}; "
                f"restart with a learning rate below {self.settings.lr:g}"
            )
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        optimizer.step()
        return value

    def validation_loss(self) -> float:
        """The objective's validation loss on held-out images with the averaged weights and fixed noise."""
        rng, total = generator(self.seed, _VALIDATION), 0.0
        for images, labels in zip(self.held_images.split(512), self.held_labels.split(512), strict=True):
            total += len(images) * self.objective.validation(self.ema.family, images.float() / 127.5 - 1, labels, rng)
        return total / len(self.held_images)
