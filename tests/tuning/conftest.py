"""Networks whose denoiser is known exactly, in every coordinate system that a schedule can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import build
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import CoefficientTable
from aigc_edge.tuning.task import Task

SCHEDULES: dict[str, dict[str, Any]] = {
    "edm": {"prediction": "edm", "sigma_data": 0.5},
    "epsilon": {"prediction": "epsilon", "betas": "linear"},
    "flow": {"prediction": "flow"},
    "zero_snr": {"prediction": "v", "betas": "scaled_linear", "zero_terminal_snr": True, "spacing": "trailing"},
}


class Toy:
    """The exact network of a data distribution that is given by its denoiser D(y, s) of y = x0 + s eps."""

    def __init__(self, schedule: dict[str, Any], denoise: Callable[[np.ndarray, float], np.ndarray], steps: int = 64) -> None:
        self.path, self.denoise = NoisePath(schedule, steps), denoise
        low = self.path.low - 2
        high = min(self.path.high, 8.0) + 2
        self._logs = np.linspace(low, high, 20001)
        self._times = np.array([self.path.timestep(log) for log in self._logs])

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        log = float(np.interp(timestep[0], self._times, self._logs))
        alpha, sigma = self.path.level(log)
        c_in, c_skip, c_out = self.path.coefficients(log)
        x = np.asarray(sample, np.float64) / c_in
        shift = 0.0 if classes is None else 0.1 * classes.reshape(-1, *[1] * (sample.ndim - 1))
        return ((self.denoise(x / alpha, sigma / alpha) + shift - c_skip * x) / c_out).astype(sample.dtype)


def gaussian(variances: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
    """The denoiser of independent normal pixels of these variances."""
    return lambda y, s: y * (variances / (variances + s * s))


def two_points(y: np.ndarray, s: float) -> np.ndarray:
    """The denoiser of pixels that are -0.7 or 0.7, blurred: far from linear."""
    variance = 0.3**2 + s * s
    return (0.3**2 * y + s * s * 0.7 * np.tanh(0.7 * y / variance)) / variance


def make_task(toy: Toy, latents: np.ndarray, target: np.ndarray, **options: Any) -> Task:
    return Task(toy, toy.path, latents.astype(np.float32), target.astype(np.float32), **options)


def random_table(rng: np.random.Generator, path: NoisePath, nfe: int, size: float = 0.2) -> CoefficientTable:
    """A table in no way special, with levels of the path."""
    high = min(path.high, 4.0)
    levels = np.sort(rng.uniform(max(path.low, -1.0), high, nfe))[::-1]
    weights = np.tril(rng.standard_normal((nfe + 1, nfe + 1))) * size
    weights[:, 0] += 1.0
    return CoefficientTable(levels.copy(), weights)


@pytest.fixture(params=list(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each coordinate system in turn."""
    return SCHEDULES[request.param]


@pytest.fixture
def edm() -> dict[str, Any]:
    """The usual one."""
    return SCHEDULES["edm"]


@pytest.fixture
def tools() -> Any:
    """The functions above, for tests (conftest cannot be imported)."""
    from types import SimpleNamespace

    return SimpleNamespace(
        Toy=Toy, gaussian=gaussian, two_points=two_points, task=make_task, table=random_table, build=build, schedules=SCHEDULES
    )
