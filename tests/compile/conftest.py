"""Bundles that are compiled once for all tests of the folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from aigc_edge.compile import compile_source
from aigc_edge.sources.generator import Generator


class Network(nn.Module):
    """F(sample [N, 3, 8, 8], timestep [N]), some layers deep."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time = nn.Linear(1, 16)
        self.layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(4)])
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = sample
        for layer in self.layers:
            x = nn.functional.silu(layer(x) + self.time(timestep[:, None] / 1000)[:, :, None, None])
        return self.last(x)


@pytest.fixture
def generator() -> Generator:
    schedule = {"prediction": "epsilon", "betas": "linear"}
    return Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=Network(), schedule=schedule, name="small")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("small")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    schedule = {"prediction": "epsilon", "betas": "linear"}
    source = Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=Network(), schedule=schedule, name="small")
    compile_source(source, place / "small.aigc", formats=["fp32"], samples=4, threads=1)
    patch.undo()
    return place / "small.aigc"


@pytest.fixture
def bundle(small_bundle, tmp_path) -> Path:
    """A copy of the small bundle that a test may change."""
    return Path(shutil.copytree(small_bundle, tmp_path / "small.aigc"))
