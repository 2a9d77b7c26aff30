"""Solvers that no scheduler stands for, against their papers' formulas written out as loops with other means."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.reference import run

integrate = pytest.importorskip("scipy.integrate")

SHAPE = (2, 6)
TOLERANCE = 1e-10
Denoise = Callable[[np.ndarray, float, float], np.ndarray]


def circle(steps: int) -> tuple[list[float], list[float]]:
    """alpha, sigma on alpha² + sigma² = 1, to the clean sample."""
    angle = np.linspace(1.5, 0.0, steps + 1)
    return np.cos(angle).tolist(), [*np.sin(angle[:-1]).tolist(), 0.0]


def exploding(steps: int) -> tuple[list[float], list[float]]:
    return [1.0] * (steps + 1), [*np.geomspace(40.0, 0.05, steps).tolist(), 0.0]


def straight(steps: int) -> tuple[list[float], list[float]]:
    t = np.linspace(0.97, 0.02, steps + 1)
    return (1 - t).tolist(), t.tolist()


def denoiser(rng: np.random.Generator) -> Denoise:
    mix, shift = rng.normal(size=(6, 6)) / 3, rng.normal(size=6)
    return lambda x, alpha, sigma: np.tanh(x @ mix / math.hypot(alpha, sigma) + shift + 0.2 * math.log(sigma / alpha))


def programmed(
    path: tuple[list[float], list[float]], solver: str, given: dict[str, Any], denoise: Denoise, x: np.ndarray, noise: Any
) -> np.ndarray:
    alphas, sigmas = path
    schedule = {"prediction": "v", "kind": "table", "alphas": alphas, "sigmas": sigmas, "init_scale": 1.0}
    program: Program = build(schedule, solver, len(sigmas) - 1, **given)
    rows = iter(zip(program.rows, alphas, sigmas, strict=False))

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row, alpha, sigma = next(rows)
        here = sample / row.c_in
        return (denoise(here, alpha, sigma) - row.c_skip * here) / row.c_out

    return run(program, network, x, draw=lambda seeds, index, shape: noise[index // 2 - 1])


@pytest.mark.parametrize("path", [circle, exploding, straight])
@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize(
    ("order", "kind", "s_noise"), [(1, "sde", 1.0), (2, "sde", 0.9), (3, "sde", 1.0), (2, "ode", 1.0), (3, "ode", 1.0)]
)
def test_er_sde_is_algorithms_1_to_3(
    rng: np.random.Generator, order: int, kind: str, s_noise: float, steps: int, path: Any
) -> None:
    """Cui et al. 2023, with lambda = sigma / alpha, phi of the noise scale, and integrals of 1 / phi by SciPy."""

    def phi(ratio: float) -> float:
        return ratio * (math.exp(ratio**0.3) + 10) if kind == "sde" else ratio

    alphas, sigmas = path(steps)
    denoise, x = denoiser(rng), rng.normal(size=SHAPE)
    noise = [rng.normal(size=SHAPE) for _ in range(steps)]
    ours = programmed((alphas, sigmas), "er_sde", {"order": order, "noise": kind, "s_noise": s_noise}, denoise, x, noise)
    ratios = [s / a for a, s in zip(alphas, sigmas, strict=True)]
    data: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    for i in range(steps):
        data.append(denoise(x, alphas[i], sigmas[i]))
        if sigmas[i + 1] == 0:
            x = alphas[i + 1] * data[i]
            continue
        s, t = ratios[i], ratios[i + 1]
        r = phi(t) / phi(s)
        after = alphas[i + 1] / alphas[i] * r * x + alphas[i + 1] * (1 - r) * data[i]
        if order >= 2 and i >= 1:
            slopes.append((data[i] - data[i - 1]) / (s - ratios[i - 1]))
            first = integrate.quad(lambda u: 1 / phi(u), t, s, epsabs=0, epsrel=1e-13)[0]
            after = after + alphas[i + 1] * (t - s + first * phi(t)) * slopes[-1]
        if order >= 3 and i >= 2:
            curve = (slopes[-1] - slopes[-2]) / ((s - ratios[i - 2]) / 2)
            second = integrate.quad(lambda u, s=s: (u - s) / phi(u), t, s, epsabs=0, epsrel=1e-13)[0]
            after = after + alphas[i + 1] * ((t - s) ** 2 / 2 + second * phi(t)) * curve
        if kind == "sde":
            after = after + s_noise * alphas[i + 1] * math.sqrt(max(t**2 - s**2 * r**2, 0.0)) * noise[i]
        x = after
    assert np.abs(ours - x).max() < TOLERANCE * np.abs(x).max()


def phi_function(k: int, h: float) -> float:
    """phi_k(−h) by its integral."""
    scale = math.factorial(k - 1)
    return float(integrate.quad(lambda u: math.exp((u - 1) * h) * u ** (k - 1) / scale, 0, 1, epsabs=0, epsrel=1e-13)[0])


@pytest.mark.parametrize("path", [circle, exploding, straight])
@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_res_multistep_fulfils_the_order_conditions(rng: np.random.Generator, order: int, steps: int, path: Any) -> None:
    """Zhang et al. 2023: x' = e^−h x + h sum of b_i D_i in x / alpha over the half-log-SNR, with b from the conditions
    sum of b_i c_i^k = k! phi_(k+1)(−h), where c_i is the place of D_i in steps; first order in a step to the clean sample."""
    alphas, sigmas = path(steps)
    denoise, x = denoiser(rng), rng.normal(size=SHAPE)
    ours = programmed((alphas, sigmas), "res_multistep", {"order": order}, denoise, x, None)
    places: list[float] = []
    data: list[np.ndarray] = []
    for (a, s), (b, t) in pairwise(zip(alphas, sigmas, strict=True)):
        places, data = [math.log(a / s), *places], [denoise(x, a, s), *data]
        if t == 0:
            x = b * data[0]
            continue
        h = math.log(b / t) - places[0]
        count = min(order, len(data))
        c = [(p - places[0]) / h for p in places[:count]]
        goal = [math.factorial(k) * phi_function(k + 1, h) for k in range(count)]
        weights = np.linalg.solve(np.array([[value**k for value in c] for k in range(count)]), goal)
        # times alpha', since the formula is of x / alpha; e^-h is the quotient of sigma / alpha
        x = t / s * x + b * h * sum(w * d for w, d in zip(weights, data, strict=False))
    assert np.abs(ours - x).max() < TOLERANCE * np.abs(x).max()
