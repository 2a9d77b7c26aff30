"""The hand-written solvers against the compiled programs, in float64 on a denoiser with an exact formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.bench import plain
from aigc_edge.diffusion import build, reference

SCHEDULE = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


class Gaussian:
    """Data that are normal with a mean and a deviation of their own: D and F are known exactly."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.mean = rng.normal(size=shape)
        self.deviation = rng.uniform(0.1, 1.0)

    def denoise(self, x: Any, sigma: float) -> Any:
        share = self.deviation**2 / (self.deviation**2 + sigma**2)
        return self.mean + share * (x - self.mean)

    def network(self, scaled: Any, timestep: Any, *_: Any) -> Any:
        sigma, data = float(np.exp(4 * np.asarray(timestep).ravel()[0])), SCHEDULE["sigma_data"]
        total = np.hypot(sigma, data)
        x = scaled * total
        return (self.denoise(x, sigma) - (data / total) ** 2 * x) / (sigma * data / total)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 31])
def test_noise_levels_are_those_of_the_program(steps: int) -> None:
    rows = build(SCHEDULE, "euler", steps).rows
    assert plain.karras(steps, 0.002, 80.0, 7.0) == pytest.approx([row.sigma for row in rows] + [0.0], rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("solver", sorted(plain.SOLVERS))
def test_plain_solver_equals_the_compiled_program(solver: str, steps: int, rng: np.random.Generator) -> None:
    model, latents = Gaussian(rng, (1, 3, 3)), rng.normal(size=(4, 1, 3, 3))
    compiled = reference.run(build(SCHEDULE, solver, steps), model.network, latents)
    sigmas = plain.karras(steps, 0.002, 80.0, 7.0)
    written = plain.SOLVERS[solver](model.denoise, latents * sigmas[0], sigmas)
    np.testing.assert_allclose(written, compiled, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_plain_solver_converges_with_its_order(solver: str, order: int, rng: np.random.Generator) -> None:
    model, latents = Gaussian(rng, (1, 2, 2)), rng.normal(size=(2, 1, 2, 2))
    low = 0.05  # stop above 0, where the exact solution of the ODE is known

    def error(steps: int) -> float:
        sigmas = plain.karras(steps, low, 80.0, 7.0)[:-1]
        start = latents * 80.0
        scale = np.hypot(model.deviation, low) / np.hypot(model.deviation, 80.0)
        exact = model.mean + (start - model.mean) * scale
        return float(np.abs(plain.SOLVERS[solver](model.denoise, start, sigmas) - exact).max())

    assert np.log2(error(64) / error(128)) == pytest.approx(order, abs=0.35)
