"""Data whose denoiser and probability-flow map are known in closed form, and networks made from it."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program


class GaussianData:
    """x0 ~ N(mean, std²) in each of `size` dimensions: D is linear in x, and the ODE keeps (x − mean) / std where it is."""

    def __init__(self, rng: np.random.Generator, size: int = 5) -> None:
        self.mean = rng.normal(size=size)
        self.std = rng.uniform(0.2, 1.5, size=size)

    def denoise(self, x: np.ndarray, alpha: Any, sigma: Any) -> np.ndarray:
        return self.mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x - alpha * self.mean)

    def move(self, x: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
        spread = [np.hypot(alpha * self.std, sigma) for alpha, sigma in (start, end)]
        return end[0] * self.mean + spread[1] / spread[0] * (x - start[0] * self.mean)


class MixtureData:
    """x0 of two Gaussians in one dimension: D is not linear, and the ODE keeps every quantile where it is."""

    weights, means, std = np.array([0.35, 0.65]), np.array([-1.0, 0.8]), 0.3

    def denoise(self, x: np.ndarray, alpha: Any, sigma: Any) -> np.ndarray:
        variance = alpha**2 * self.std**2 + sigma**2
        distance = x[..., None] - alpha * self.means
        share = self.weights * np.exp(-(distance**2 - (distance**2).min(-1, keepdims=True)) / (2 * variance))
        each = self.means + alpha * self.std**2 / variance * distance
        return (share * each).sum(-1) / share.sum(-1)

    def quantile(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        spread = math.hypot(alpha * self.std, sigma) * math.sqrt(2)
        below = [
            [w * math.erfc((alpha * m - value) / spread) / 2 for w, m in zip(self.weights, self.means, strict=True)]
            for value in x
        ]
        return np.sum(below, -1)

    def move(self, x: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
        wanted = self.quantile(x.ravel(), *start)
        low, high = np.full(x.size, -20.0), np.full(x.size, 20.0)
        for _ in range(90):
            middle = (low + high) / 2
            above = self.quantile(middle, *end) > wanted
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return ((low + high) / 2).reshape(x.shape)


def ideal_output(
    prediction: str, x: np.ndarray, x0: np.ndarray, alpha: float, sigma: float, sigma_data: float = 0.5
) -> np.ndarray:
    """What a network of this kind is trained to say where the noisy sample is x and the (expected) clean one is x0."""
    eps = (x - alpha * x0) / sigma
    if prediction == "epsilon":
        return eps
    if prediction in ("x0", "denoised"):
        return x0
    if prediction == "v":
        return (alpha * eps - sigma * x0) / math.hypot(alpha, sigma)
    if prediction == "flow":
        return eps - x0
    s, y = sigma / alpha, x / alpha  # EDM, equation 7, with table 1
    return (x0 - sigma_data**2 / (s**2 + sigma_data**2) * y) * math.sqrt(s**2 + sigma_data**2) / (s * sigma_data)


def ideal_network(
    prediction: str, data: Any, levels: dict[float, tuple[float, float]], sigma_data: float = 0.5
) -> Callable[..., Any]:
    """The perfect network for `data`; `levels` tells which noise level (alpha, sigma) each of its time inputs stands for."""

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        alpha, sigma = levels[float(timestep[0])]
        norms = {"edm": math.hypot(alpha * sigma_data, sigma), "flow": alpha + sigma, "denoised": alpha}
        x = sample * norms.get(prediction, math.hypot(alpha, sigma))
        return ideal_output(prediction, x, data.denoise(x, alpha, sigma), alpha, sigma, sigma_data)

    return network


def levels_of(program: Program, path: Callable[[float], float] = lambda sigma: 1.0) -> dict[float, tuple[float, float]]:
    """Time input → (alpha, sigma) of every row; `path` gives alpha from sigma."""
    return {row.timestep: (path(row.sigma), row.sigma) for row in program.rows}


class Widened:
    """A module (torch, numpy) whose float32 is float64."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@pytest.fixture
def widen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """widen(class) makes a diffusers scheduler class keep its tables and samples in full precision."""
    torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
    previous = torch.get_default_dtype()

    def change(kind: Any) -> None:
        torch.set_default_dtype(torch.float64)
        module = sys.modules[kind.__module__]
        for part in ("torch", "np"):
            if hasattr(module, part):
                monkeypatch.setattr(module, part, Widened(getattr(module, part)))

    yield change
    torch.set_default_dtype(previous)


@pytest.fixture
def exact() -> SimpleNamespace:
    return SimpleNamespace(
        GaussianData=GaussianData,
        MixtureData=MixtureData,
        ideal_output=ideal_output,
        ideal_network=ideal_network,
        levels_of=levels_of,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()  # fresh every time: nothing below may depend on a lucky draw


@pytest.fixture
def small() -> dict[str, Any]:
    """A valid program of two slots and two rows, as JSON."""
    row = {
        "sigma": 2.0,
        "timestep": 0.25,
        "c_in": 0.5,
        "c_skip": 0.1,
        "c_out": 0.9,
        "guidance": 1.0,
        "clip": [-1, 1],
        "before": [[1, 0], [0, 1]],
        "before_noise": [0.5, 0],
        "after": [[0.5, 0, 0.5], [0, 0, 1]],
        "after_noise": [0.1, 0],
    }
    return {
        "version": 1,
        "name": "small",
        "slots": 2,
        "init_scale": 2,
        "guidance_scale": 1.5,
        "rows": [row, copy.deepcopy(row)],
        "meta": {"solver": "mine", "steps": 2},
    }
