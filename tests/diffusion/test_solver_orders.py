"""The other solvers: order of convergence, exactness on polynomials, limits, and the noise that the stochastic ones leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.reference import run

NARROW = {"prediction": "edm", "sigma_min": 0.02, "sigma_max": 20.0, "final_sigma": "sigma_min"}


def line(steps: int) -> dict[str, Any]:
    """The flow path, evenly."""
    t = np.linspace(0.95, 0.05, steps + 1)
    return {"prediction": "flow", "kind": "table", "sigmas": t.tolist(), "alphas": (1 - t).tolist(), "timesteps": t.tolist()}


def even(steps: int) -> dict[str, Any]:
    """Even steps of sigma, which fixed Adams coefficients are made for."""
    return {"prediction": "epsilon", "kind": "table", "sigmas": np.linspace(3.0, 1.0, steps + 1).tolist()}


PATHS: dict[str, tuple[Callable[[int], dict[str, Any]], Callable[[float], float], float]] = {
    "edm": (lambda n: NARROW, lambda s: 1.0, 0.02),
    "flow": (line, lambda s: 1 - s, 0.05),
    "even": (even, lambda s: 1.0, 1.0),
}
# The first steps of a multistep method are of low order: the whole is of order 2, or 3 with a corrector, whatever comes later.
ORDERS: list[tuple[str, dict[str, Any], str, float]] = [
    ("midpoint", {}, "edm flow", 2),
    ("dpm2", {}, "edm flow", 2),
    ("dpm2_ancestral", {"eta": 0.0}, "edm flow", 2),
    ("dpmpp_2s", {}, "edm flow", 2),
    ("dpmpp_sde", {"eta": 0.0}, "edm flow", 2),
    ("dpmpp_2m_sde", {"eta": 0.0}, "edm flow", 2),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, "edm flow", 2),
    ("dpmpp_3m", {}, "edm flow", 2),
    ("dpmpp_3m_sde", {"eta": 0.0}, "edm flow", 2),
    ("lms", {"order": 1}, "edm flow", 1),
    ("lms", {"order": 2}, "edm flow", 2),
    ("deis", {"order": 2}, "edm flow", 2),
    ("deis", {"order": 3}, "edm flow", 2),
    ("ipndm", {"order": 2}, "even", 2),
    ("pndm", {}, "even", 4),
    ("pndm", {"warm_up": "heun"}, "even", 2),
    ("dpm_fast", {}, "edm flow", 3),
    ("res_multistep", {}, "edm flow", 2),
    ("res_multistep", {"order": 3}, "edm flow", 2),
    ("unipc", {"order": 1}, "edm flow", 2),
    ("unipc", {}, "edm flow", 3),
    ("unipc", {"variant": "bh1"}, "edm flow", 3),
    ("unipc", {"order": 3}, "edm flow", 3),
    ("sa_solver", {"tau": 0.0, "predictor_order": 1, "corrector_order": 0}, "edm flow", 1),
    ("sa_solver", {"tau": 0.0, "corrector_order": 0}, "edm flow", 2),
    ("sa_solver", {"tau": 0.0}, "edm flow", 3),
    ("sa_solver", {"tau": 0.0, "corrector_order": 1, "few_steps": True}, "edm flow", 2),
    ("er_sde", {"noise": "ode", "order": 1}, "edm flow", 1),
    ("er_sde", {"noise": "ode", "order": 2}, "edm flow", 2),
    ("er_sde", {"noise": "ode"}, "edm flow", 2),
    ("ddpm", {}, "", 1),
]


@pytest.mark.parametrize(("solver", "given", "paths", "order"), ORDERS)
def test_order_of_convergence(
    exact: SimpleNamespace, rng: np.random.Generator, solver: str, given: dict[str, Any], paths: str, order: float
) -> None:
    data, latents = exact.MixtureData(), rng.normal(size=(5, 4))
    for name in paths.split():
        make, alpha, last = PATHS[name]
        errors = []
        for steps in (160, 320) if order == 4 else (150, 300):
            program = build(make(steps), solver, steps, **given)
            network = exact.ideal_network(program.meta["schedule"]["prediction"], data, exact.levels_of(program, alpha))
            first = program.rows[0].sigma
            wanted = data.move(latents * program.init_scale, (alpha(first), first), (alpha(last), last))
            errors.append(np.linalg.norm(run(program, network, latents) - wanted) / np.linalg.norm(wanted))
        slack = 0.5 if solver.startswith("dpmpp_3m") else 0.25  # two errors of opposite sign, of order 2 and 3
        assert math.log2(errors[0] / errors[1]) > order - slack, name
        assert errors[1] < {1: 0.03, 2: 2e-3, 3: 3e-4, 4: 1e-4}[int(order)]


def forced(program: Program, sigmas: np.ndarray, say: Callable[[float], float]) -> list[float]:
    """Samples at each noise level when the network answers a function of sigma alone, whatever it is shown."""
    seen: list[float] = []

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row = program.rows[len(seen)]
        seen.append(float(sample[0, 0]) / row.c_in)
        return np.full_like(sample, say(row.sigma))

    end = run(program, network, np.zeros((1, 1)))
    return [*seen, float(end[0, 0])]


@pytest.mark.parametrize(
    ("solver", "given", "degree", "in_log", "spacing"),
    [
        ("lms", {}, 3, False, "uneven"),
        ("lms", {"order": 3}, 2, False, "uneven"),
        ("deis", {}, 2, True, "uneven"),
        ("deis", {"order": 4}, 3, True, "uneven"),
        ("ipndm", {}, 3, False, "even"),
        ("ipndm", {"order": 3}, 2, False, "even"),
        ("pndm", {}, 3, False, "even"),
    ],
)
def test_eps_that_is_a_polynomial_is_integrated_exactly(
    rng: np.random.Generator, solver: str, given: dict[str, Any], degree: int, in_log: bool, spacing: str
) -> None:
    """dx = eps dsigma: once there is a full history, each step is the integral of the polynomial."""
    sigmas = np.linspace(4.0, 0.5, 11) if spacing == "even" else np.sort(rng.uniform(0.5, 4.0, 11))[::-1]
    poly = np.polynomial.Polynomial(rng.normal(size=degree + 1))
    program = build({"prediction": "epsilon", "kind": "table", "sigmas": sigmas.tolist()}, solver, 10, **given)
    path = forced(program, sigmas, lambda s: poly(math.log(s)) if in_log else poly(s))
    extra = program.nfe - 10  # warm-up evaluations
    points, weights = np.polynomial.legendre.leggauss(60)
    for i in range(degree, 10):
        a, b = sigmas[i], sigmas[i + 1]
        u = (a + b) / 2 + (b - a) / 2 * points
        wanted = (b - a) / 2 * float(weights @ (poly(np.log(u)) if in_log else poly(u)))
        assert path[i + 1 + extra] - path[i + extra] == pytest.approx(wanted, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize(
    ("solver", "given", "degree"),
    [
        ("res_multistep", {}, 1),
        ("res_multistep", {"order": 3}, 2),
        ("sa_solver", {"tau": 0.0, "predictor_order": 3, "corrector_order": 0}, 2),
        ("sa_solver", {"tau": 0.0, "predictor_order": 4, "corrector_order": 0}, 3),
        ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, 1),
        ("dpmpp_3m", {}, 1),
        ("er_sde", {"noise": "ode", "order": 1}, 0),
    ],
)
def test_d_that_is_a_polynomial_is_integrated_exactly(
    rng: np.random.Generator, solver: str, given: dict[str, Any], degree: int
) -> None:
    """d(x / sigma) = D dq with q = 1 / sigma: with a full history, each step is the integral of the polynomial in ln q."""
    sigmas = np.sort(rng.uniform(0.5, 4.0, 11))[::-1]
    poly = np.polynomial.Polynomial(rng.normal(size=degree + 1))
    program = build({"prediction": "x0", "kind": "table", "sigmas": sigmas.tolist()}, solver, 10, **given)
    path = forced(program, sigmas, lambda s: poly(-math.log(s)))
    points, weights = np.polynomial.legendre.leggauss(60)
    for i in range(degree, 10):
        a, b = 1 / sigmas[i], 1 / sigmas[i + 1]
        q = (a + b) / 2 + (b - a) / 2 * points
        wanted = (b - a) / 2 * float(weights @ poly(np.log(q)))
        assert path[i + 1] / sigmas[i + 1] - path[i] / sigmas[i] == pytest.approx(wanted, rel=1e-8, abs=1e-9)


NOISY: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {}),
    ("dpm2_ancestral", {}),
    ("dpmpp_2s", {"eta": 1.0}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.5}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_3m_sde", {"eta": 0.6}),
    ("sa_solver", {}),
    ("sa_solver", {"tau": 0.4, "predictor_order": 3, "corrector_order": 3}),
    ("er_sde", {}),
    ("consistency", {}),
    ("lcm", {}),
    ("tcd", {}),
    ("tcd", {"gamma": 0.8}),
]


@pytest.mark.parametrize("schedule", [NARROW, line(9)], ids=["edm", "flow"])
@pytest.mark.parametrize(("solver", "given"), NOISY)
def test_noise_that_is_left_is_that_of_the_level(solver: str, given: dict[str, Any], schedule: dict[str, Any]) -> None:
    """Where D is 0, as for data of one point, the variance at the end is sigma² exactly, from the rows' own coefficients."""
    program = build(schedule, solver, 9, **given)
    size = 2 * program.nfe + 2
    state = np.zeros((program.slots, size))
    # From the exact marginal, not from init_scale, which may count the variance of the data too.
    state[0, 0] = program.rows[0].sigma
    for k, row in enumerate(program.rows):
        unit = np.eye(size)[2 * k + 2]
        state = np.array(row.after)[:, :-1] @ state + np.outer(row.after_noise or (), unit)
    last = 0.02 if schedule is NARROW else schedule["sigmas"][-1]
    assert math.sqrt((state[0] ** 2).sum()) == pytest.approx(last, rel=1e-9)


def test_ddpm_variances(rng: np.random.Generator) -> None:
    """x' given x has the posterior's variance, or beta, in variance-preserving coordinates (Ho et al. 2020, section 3.2)."""
    angle = np.linspace(1.4, 0.2, 6)
    schedule = {"prediction": "v", "kind": "table", "sigmas": np.sin(angle).tolist(), "alphas": np.cos(angle).tolist()}
    for variance in ("small", "large"):
        program = build(schedule, "ddpm", 5, variance=variance)
        for row, (a, b) in zip(program.rows, pairwise(np.cos(angle)), strict=True):
            beta = 1 - (a / b) ** 2
            wanted = beta if variance == "large" else (1 - b * b) / (1 - a * a) * beta
            assert row.after_noise == pytest.approx((math.sqrt(wanted),))


def test_limits() -> None:
    """Members of a family that must be one method, coefficient by coefficient."""
    same = [
        ("tcd", {"gamma": 0.0}, "ddim", {}),
        ("tcd", {"gamma": 1.0}, "consistency", {}),
        ("ddpm", {}, "ddim", {"eta": 1.0}),
        ("lms", {"order": 1}, "euler", {}),
        ("deis", {"order": 1}, "euler", {}),
        ("ipndm", {"order": 1}, "euler", {}),
        ("res_multistep", {"order": 1}, "euler", {}),
        ("er_sde", {"order": 1, "noise": "ode"}, "euler", {}),
        ("dpm2_ancestral", {"eta": 0.0}, "dpm2", {}),
        ("dpmpp_3m_sde", {"eta": 0.0}, "dpmpp_3m", {}),
        ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m", {}),
    ]
    for solver, given, other, theirs in same:
        for schedule in (NARROW, line(7), {"prediction": "flow"}):
            for a, b in zip(build(schedule, solver, 7, **given).rows, build(schedule, other, 7, **theirs).rows, strict=True):
                assert np.allclose(a.after, b.after, rtol=1e-9, atol=1e-12), solver
                assert np.allclose(a.after_noise or 0, b.after_noise or 0, rtol=1e-9, atol=1e-12), solver


@pytest.mark.parametrize(
    ("solver", "given", "slots"),
    [
        ("midpoint", {}, 2),
        ("dpmpp_2s", {}, 2),
        ("dpmpp_sde", {}, 2),
        ("dpmpp_3m", {}, 3),
        ("lms", {}, 4),
        ("deis", {}, 3),
        ("ipndm", {}, 4),
        ("pndm", {}, 5),
        ("unipc", {}, 3),
        ("unipc", {"order": 3}, 4),
        ("sa_solver", {}, 3),
        ("sa_solver", {"corrector_order": 0}, 2),
        ("er_sde", {}, 3),
        ("consistency", {}, 1),
    ],
)
def test_slots(solver: str, given: dict[str, Any], slots: int) -> None:
    assert build(NARROW, solver, 8, **given).slots == slots
