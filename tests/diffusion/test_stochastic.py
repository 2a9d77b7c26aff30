"""Stochastic solvers: the distribution that they leave, computed from the rows themselves, against Bayes' rule and theory."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.reference import run

SCHEDULES: dict[str, dict[str, Any]] = {
    "edm": {"prediction": "edm", "sigma_min": 0.02, "sigma_max": 20.0, "final_sigma": "sigma_min"},
    "vp": {"prediction": "epsilon", "betas": "linear", "spacing": "leading", "steps_offset": 1, "final_sigma": "sigma_min"},
    "flow": {"prediction": "flow"},
}


def path_of(name: str) -> Any:
    return (lambda s: 1 - s) if name == "flow" else (lambda s: 1.0)


def responses(exact: SimpleNamespace, program: Program, std: float, name: str) -> np.ndarray:
    """How slot 0 ends for x0 ~ N(0, std²): its coefficients of the latents and of every noise that was drawn, all independent."""
    draws = 2 * program.nfe + 2
    data = exact.GaussianData(np.random.default_rng(0), size=draws)
    data.mean, data.std = np.zeros(draws), np.full(draws, std)

    def unit(index: int) -> np.ndarray:
        return np.eye(draws)[index][None]

    network = exact.ideal_network(program.meta["schedule"]["prediction"], data, exact.levels_of(program, path_of(name)))
    return run(program, network, unit(0), draw=lambda seeds, index, shape: unit(index))[0]


def levels(program: Program, name: str) -> list[tuple[float, float]]:
    path, schedule = path_of(name), program.meta["schedule"]
    last = 0.0 if name == "flow" else schedule["sigma_min"] if name == "edm" else None
    found = [(path(row.sigma), row.sigma) for row in program.rows]
    if last is None:  # the first training timestep of the linear betas
        last = math.sqrt(1e-4 / (1 - 1e-4))
    return [*found, (path(last), last)]


def bayes_step(start: tuple[float, float], end: tuple[float, float], std: float, variance: float) -> float:
    """The new variance when x' is drawn from q(x' | x, x0 = D(x)), from the covariance of (x', x) given x0."""
    (a, s), (b, t) = start, end
    ratio = a / b  # x = ratio · x' + fresh noise
    inside, outside = t * t, s * s  # Var(x' | x0), Var(x | x0)
    gain = ratio * inside / outside
    left = inside - gain * ratio * inside
    shrink = a * std**2 / (a * a * std**2 + s * s)  # D = shrink · x
    slope = b * shrink + gain * (1 - a * shrink)
    return slope**2 * variance + left


@pytest.mark.parametrize("solver", ["euler_ancestral", "ddim"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_variance_follows_bayes_rule(
    exact: SimpleNamespace, rng: np.random.Generator, solver: str, name: str, steps: int
) -> None:
    std = float(rng.uniform(0.2, 1.5))
    program = build(SCHEDULES[name], solver, steps, eta=1.0)
    marks = levels(program, name)
    variance = program.init_scale**2
    for start, end in pairwise(marks):
        variance = bayes_step(start, end, std, variance)
    assert float((responses(exact, program, std, name) ** 2).sum()) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_variance_of_a_single_point_is_that_of_the_noise(exact: SimpleNamespace, name: str, eta: float) -> None:
    """With one possible x0 the marginal N(alpha x0, sigma²) is kept exactly by every eta (Song et al. 2021, lemma 1)."""
    program = build(SCHEDULES[name], "ddim", 9, eta=eta)
    marks = levels(program, name)
    scale = marks[0][1] / program.init_scale  # start from the exact marginal
    spread = responses(exact, program, 0.0, name)
    spread[0] *= scale
    assert float((spread**2).sum()) == pytest.approx(marks[-1][1] ** 2, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", ["ddim", "euler_ancestral"])
def test_variance_converges_to_the_marginal(exact: SimpleNamespace, rng: np.random.Generator, solver: str, name: str) -> None:
    """With more steps the end is distributed as the data (with the noise that is left), with an error of order 1."""
    std = float(rng.uniform(0.3, 1.2))
    errors = []
    for steps in (100, 400):
        program = build(SCHEDULES[name], solver, steps, eta=1.0)
        alpha, sigma = levels(program, name)[-1]
        spread = responses(exact, program, std, name)
        first = levels(program, name)[0]
        spread[0] *= math.hypot(first[0] * std, first[1]) / program.init_scale
        errors.append(abs(float((spread**2).sum()) / (alpha**2 * std**2 + sigma**2) - 1))
    assert errors[1] < 0.08
    if name != "vp":  # whole timesteps are uneven
        assert math.log(errors[0] / errors[1]) / math.log(4) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_mean_goes_where_the_deterministic_solver_takes_it(exact: SimpleNamespace, rng: np.random.Generator, name: str) -> None:
    """For N(mean, std²) the mean stays alpha · mean: started there, without noise, every step lands there."""
    data, program = exact.GaussianData(rng), build(SCHEDULES[name], "euler_ancestral", 7)
    marks = levels(program, name)
    network = exact.ideal_network(program.meta["schedule"]["prediction"], data, exact.levels_of(program, path_of(name)))
    latents = (marks[0][0] * data.mean / program.init_scale)[None]
    out = run(program, network, latents, draw=lambda seeds, index, shape: np.zeros(shape))
    assert np.allclose(out[0], marks[-1][0] * data.mean, rtol=1e-9, atol=1e-12)


def test_churn_keeps_the_marginal_of_a_single_point(exact: SimpleNamespace) -> None:
    """Noise is added and removed again: with one possible x0 the variance at the end is exactly the noise level's."""
    for solver in ("euler", "heun"):
        program = build(SCHEDULES["edm"], solver, 10, s_churn=4.0)
        spread = responses(exact, program, 0.0, "edm")
        assert np.count_nonzero(spread) == 11  # the latents and one draw a step
        assert float((spread**2).sum()) == pytest.approx(0.02**2, rel=1e-9)
