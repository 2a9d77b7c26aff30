"""Embeddings of the noise level and of the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Cosines and sines of a scalar at fixed frequencies, geometric from `lowest` to `highest` (in periods per unit).

    The frequencies are constants, not random: they are not stored in checkpoints and are the same on every machine. The default
    range suits EDM's c_noise = ln(sigma) / 4, which spans about 2.7 units.
    """

    frequencies: Tensor

    def __init__(self, channels: int, lowest: float = 0.125, highest: float = 8.0) -> None:
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"channels must be even and at least 4, not {channels}")
        exponents = torch.linspace(0, 1, channels // 2, dtype=torch.float64)
        frequencies = 2 * math.pi * lowest * (highest / lowest) ** exponents
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed x [N] into [N, channels]."""
        angles = x[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class ConditionEmbedding(nn.Module):
    """Embed timestep [N] float32 and, when `num_classes` > 0, class index [N] int64 into one vector [N, channels].

    Class index `num_classes` is the null class: the network's input for an unconditional estimate
    (classifier-free guidance, Ho and Salimans 2022). The class is added after the last matrix product of the timestep's branch,
    so all that depends on the timestep alone is one subgraph that a compiler can evaluate ahead of time.
    """

    def __init__(self, channels: int, num_classes: int, features: int = 32) -> None:
        super().__init__()
        self.features = FourierFeatures(features)
        self.hidden = nn.Linear(features, channels)
        self.time = nn.Linear(channels, channels)
        self.classes = nn.Embedding(num_classes + 1, channels) if num_classes else None
        self.activation = nn.SiLU()

    def forward(self, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        embedding = self.time(self.activation(self.hidden(self.features(timestep))))
        if self.classes is not None:
            embedding = embedding + self.classes(class_labels)
        return self.activation(embedding)
