"""Solvers against exact solutions, against their papers' formulas written out as loops, and in their limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import SOLVERS, Program, build
from aigc_edge.diffusion.reference import run

EDM = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
NARROW = {"prediction": "edm", "sigma_min": 0.02, "sigma_max": 20.0, "final_sigma": "sigma_min"}
ORDER = {"euler": 1, "ddim": 1, "heun": 2, "dpmpp_2m": 2}


def straight(steps: int, first: float, last: float) -> dict[str, Any]:
    """Levels of the flow path, evenly from `first` to `last`."""
    t = np.linspace(first, last, steps + 1)
    return {"prediction": "flow", "kind": "table", "sigmas": t.tolist(), "alphas": (1 - t).tolist(), "timesteps": t.tolist()}


def circle(steps: int, prediction: str, last: float) -> dict[str, Any]:
    """Levels in variance-preserving coordinates, alpha² + sigma² = 1, evenly in the angle."""
    angle = np.linspace(1.5, last, steps + 1)
    return {"prediction": prediction, "kind": "table", "sigmas": np.sin(angle).tolist(), "alphas": np.cos(angle).tolist()}


# name → (schedule for a number of steps, alpha from sigma)
PATHS: dict[str, tuple[Callable[[int], dict[str, Any]], Callable[[float], float]]] = {
    "edm karras": (lambda n: NARROW, lambda s: 1.0),
    "edm exponential": (lambda n: NARROW | {"spacing": "exponential"}, lambda s: 1.0),
    "flow": (lambda n: straight(n, 0.97, 0.02), lambda s: 1 - s),
    "vp epsilon": (lambda n: circle(n, "epsilon", 0.02), lambda s: math.sqrt(1 - s * s)),
    "vp v": (lambda n: circle(n, "v", 0.02), lambda s: math.sqrt(1 - s * s)),
    "vp x0": (lambda n: circle(n, "x0", 0.02), lambda s: math.sqrt(1 - s * s)),
}


def final_error(
    exact: SimpleNamespace, data: Any, program: Program, path: Callable[[float], float], latents: np.ndarray
) -> float:
    schedule = program.meta["schedule"]
    network = exact.ideal_network(schedule["prediction"], data, exact.levels_of(program, path))
    sigma = (
        schedule["sigmas"][-1] if "sigmas" in schedule else schedule.get("sigma_min", 0.0) if "final_sigma" in schedule else 0.0
    )
    first = (path(program.rows[0].sigma), program.rows[0].sigma)
    wanted = data.move(latents * program.init_scale, first, (path(sigma), sigma))
    return float(np.linalg.norm(run(program, network, latents) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ORDER)
@pytest.mark.parametrize("data", ["GaussianData", "MixtureData"])
def test_order_of_convergence(exact: SimpleNamespace, rng: np.random.Generator, data: str, solver: str, path: str) -> None:
    known = exact.GaussianData(rng) if data == "GaussianData" else exact.MixtureData()
    make, alpha = PATHS[path]
    latents = rng.normal(size=(40, 5))
    errors = [final_error(exact, known, build(make(n), solver, n), alpha, latents) for n in (200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDER[solver], abs=0.15)
    assert errors[1] < (0.02 if ORDER[solver] == 1 else 2e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("solver", ORDER)
def test_flow_from_pure_noise_to_the_clean_sample_converges(
    exact: SimpleNamespace, rng: np.random.Generator, solver: str, shift: float
) -> None:
    """alpha = 0 and sigma = 0 at the ends; there the half-log-SNR is infinite, which costs DPM-Solver++ a logarithm, no more."""
    data = exact.GaussianData(rng)
    latents = rng.normal(size=(40, 5))
    programs = [build({"prediction": "flow", "shift": shift}, solver, n) for n in (200, 800)]
    errors = [final_error(exact, data, program, lambda s: 1 - s, latents) for program in programs]
    order = math.log(errors[0] / errors[1]) / math.log(4)
    assert order > ORDER[solver] - (0.55 if solver == "dpmpp_2m" else 0.1)
    assert errors[1] < (0.02 if ORDER[solver] == 1 else 1e-3)


@pytest.mark.parametrize(
    "schedule", [EDM, {"prediction": "flow"}, {"prediction": "v", "betas": "cosine"}], ids=["edm", "flow", "vp"]
)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_constant_denoiser_is_reached_exactly(
    rng: np.random.Generator, solver: str, steps: int, schedule: dict[str, Any]
) -> None:
    """Where D does not depend on x every solver must end at D itself, whatever was drawn on the way."""
    goal = rng.normal(size=(3, 4))

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row = next(rows)
        return (goal - row.c_skip * sample / row.c_in) / row.c_out

    program = build(schedule, solver, steps)
    rows = iter(program.rows)
    out = run(program, network, rng.normal(size=(3, 4)), draw=lambda seeds, index, shape: rng.normal(size=shape))
    assert np.abs(out - goal).max() < 1e-9


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_constant_denoiser_is_followed_exactly_in_between(rng: np.random.Generator, steps: int) -> None:
    """DDIM, DPM-Solver++ and Heun are exact at every level: x = alpha D + sigma eps with the eps of the start."""
    goal, eps = rng.normal(size=(2, 3, 4))
    for solver in ORDER:
        for schedule, end in ((NARROW, (1.0, 0.02)), (circle(steps, "x0", 0.1), (math.cos(0.1), math.sin(0.1)))):
            program = build(schedule, solver, steps)
            start = program.rows[0]
            alpha = 1.0 if schedule is NARROW else math.cos(1.5)
            latents = (alpha * goal + start.sigma * eps) / program.init_scale
            rows = {row.timestep: row for row in program.rows}

            def network(sample: np.ndarray, t: np.ndarray, classes: Any, rows: Any = rows) -> np.ndarray:
                row = rows[float(t[0])]
                return (goal - row.c_skip * sample / row.c_in) / row.c_out

            assert np.allclose(run(program, network, latents), end[0] * goal + end[1] * eps, rtol=0, atol=1e-11)


def toy_denoiser(rng: np.random.Generator) -> Callable[[np.ndarray, float], np.ndarray]:
    mix, shift = rng.normal(size=(6, 6)) / 3, rng.normal(size=6)
    return lambda x, sigma: np.tanh(x @ mix / math.hypot(sigma, 1) + shift + 0.2 * math.log(sigma))


def run_with(
    program: Program, denoise: Callable[[np.ndarray, float], np.ndarray], latents: np.ndarray, noise: dict[int, np.ndarray]
) -> np.ndarray:
    rows = {row.timestep: row for row in program.rows}

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row = rows[float(timestep[0])]
        x = sample / row.c_in
        return (denoise(x, row.sigma) - row.c_skip * x) / row.c_out

    return run(program, network, latents, draw=lambda seeds, index, shape: noise[index])


@pytest.mark.parametrize("s_churn", [0.0, 3.0, 1e6])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_stochastic_edm_sampler_is_algorithm_2(rng: np.random.Generator, solver: str, s_churn: float) -> None:
    """Karras et al. 2022, algorithm 2, as a loop; `euler` is the same without lines 8 and 9."""
    steps, t_min, t_max, s_noise = 9, 0.05, 50.0, 1.007
    given: dict[str, Any] = {"s_churn": s_churn, "s_tmin": t_min, "s_tmax": t_max, "s_noise": s_noise}
    program = build(EDM, solver, steps, **given)
    denoise, latents = toy_denoiser(rng), rng.normal(size=(2, 6))
    noise = {index: rng.normal(size=(2, 6)) for index in range(100)}

    t = [(80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(steps)] + [0.0]
    x, row = t[0] * latents, 0
    for i in range(steps):
        gamma = min(s_churn / steps, math.sqrt(2) - 1) if t_min <= t[i] <= t_max else 0
        hat = t[i] + gamma * t[i]
        x = x + math.sqrt(hat**2 - t[i] ** 2) * s_noise * noise[2 * row + 1]
        slope = (x - denoise(x, hat)) / hat
        following = x + (t[i + 1] - hat) * slope
        row += 1
        if solver == "heun" and t[i + 1] != 0:
            corrected = (following - denoise(following, t[i + 1])) / t[i + 1]
            following = x + (t[i + 1] - hat) * (slope + corrected) / 2
            row += 1
        x = following
    assert program.nfe == row == (2 * steps - 1 if solver == "heun" else steps)
    assert np.allclose(run_with(program, denoise, latents, noise), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 1.5])
def test_euler_ancestral_is_the_split_of_sigma(rng: np.random.Generator, eta: float) -> None:
    """Down to sigma_down by Euler, then noise of sigma_up, where up² + down² is the new variance and up is at most all of it."""
    program = build(EDM, "euler_ancestral", 8, eta=eta, s_noise=0.9)
    denoise, latents = toy_denoiser(rng), rng.normal(size=(2, 6))
    noise = {index: rng.normal(size=(2, 6)) for index in range(20)}
    sigmas = [row.sigma for row in program.rows] + [0.0]
    x = sigmas[0] * latents
    for i, (here, there) in enumerate(pairwise(sigmas)):
        up = min(there, eta * math.sqrt(there**2 / here**2 * (here**2 - there**2)))
        down = math.sqrt(there**2 - up**2)
        x = x + (x - denoise(x, here)) / here * (down - here) + up * 0.9 * noise[2 * i + 2]
    assert np.allclose(run_with(program, denoise, latents, noise), x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("lower", [False, True])
def test_dpmpp_2m_is_algorithm_2(rng: np.random.Generator, final: str, lower: bool) -> None:
    """Lu et al. 2022, algorithm 2, as a loop over lambda = ln(alpha / sigma)."""
    program = build(EDM | {"final_sigma": final}, "dpmpp_2m", 7, lower_order_final=lower)
    denoise, latents = toy_denoiser(rng), rng.normal(size=(2, 6))
    sigmas = [row.sigma for row in program.rows] + [0.0 if final == "zero" else 0.002]
    x, data = sigmas[0] * latents, []
    for i, (here, there) in enumerate(pairwise(sigmas)):
        data.append(denoise(x, here))
        if there == 0:
            x = data[-1]
            continue
        h = -math.log(there) + math.log(here)
        used = data[-1]
        if i > 0 and not (lower and i == 6):
            r = (-math.log(here) + math.log(sigmas[i - 1])) / h
            used = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = there / here * x - math.expm1(-h) * used
    assert np.allclose(run_with(program, denoise, latents, {}), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("solver", "given"), [("ddim", {}), ("ddim", {"eta": 0.7}), ("euler_ancestral", {}), ("dpmpp_2m", {}), ("heun", {})]
)
def test_coordinates_do_not_matter(exact: SimpleNamespace, rng: np.random.Generator, solver: str, given: dict[str, Any]) -> None:
    """x / alpha over sigma / alpha and x over (alpha, sigma) are the same process; Heun alone sees the path, to second order."""
    steps = 200 if solver == "heun" else 6
    table = circle(steps, "v", 0.05)
    alphas, sigmas = np.array(table["alphas"]), np.array(table["sigmas"])
    scaled = {"prediction": "v", "kind": "table", "sigmas": (sigmas / alphas).tolist()}
    data, latents = exact.GaussianData(rng), rng.normal(size=(4, 5))
    noise = {index: rng.normal(size=(4, 5)) for index in range(2 * steps + 1)}
    results = []
    for schedule, path in ((table, lambda s: math.sqrt(1 - s * s)), (scaled, lambda s: 1.0)):
        program = build(schedule, solver, steps, **given)
        network = exact.ideal_network("v", data, exact.levels_of(program, path))
        results.append(run(program, network, latents, draw=lambda seeds, index, shape: noise[index]))
    assert np.allclose(
        results[0], results[1] * alphas[-1], rtol=1e-3 if solver == "heun" else 1e-10, atol=2e-4 if solver == "heun" else 1e-10
    )


@pytest.mark.parametrize(
    "schedule", [EDM, {"prediction": "flow"}, {"prediction": "epsilon", "betas": "linear", "spacing": "trailing"}]
)
def test_euler_and_deterministic_ddim_are_one_method(schedule: dict[str, Any]) -> None:
    assert build(schedule, "euler", 11).rows == build(schedule, "ddim", 11).rows


@pytest.mark.parametrize(("solver", "slots"), [("euler", 1), ("ddim", 1), ("euler_ancestral", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_slots_are_as_few_as_possible(solver: str, slots: int) -> None:
    assert build(EDM, solver, 5).slots == slots
