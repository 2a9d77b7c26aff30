"""Small networks that are sources."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class Denoiser(nn.Module):
    """F(sample [N, 3, 8, 8], timestep [N], classes [N] or nothing) with weights that differ from zero."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 16))
        self.classes = nn.Embedding(classes + 1, 16) if classes else None

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        embedding = self.time(timestep[:, None] / 1000)
        if self.classes is not None:
            embedding = embedding + self.classes(labels)
        return self.last(nn.functional.silu(self.first(sample) + embedding[:, :, None, None]))


class Decoder(nn.Module):
    """[N, 6] → [N, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 192))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(sample)).reshape(-1, 3, 8, 8)


@pytest.fixture
def denoiser():
    return Denoiser


@pytest.fixture
def decoder():
    return Decoder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
