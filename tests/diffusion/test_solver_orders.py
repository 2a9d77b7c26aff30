"""All solvers: the declared order of convergence, exactness on polynomials, limits, and the noise that stochastic ones leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import SOLVERS, Order, Program, build
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

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
LARGEST_ERRORS = {0: math.inf, 1: 0.03, 2: 2e-3, 3: 3e-4}  # at 300 steps


def declared() -> Iterator[tuple[str, Order | None]]:
    """Each solver with each order that it declares; None where it declares none."""
    for name in SOLVERS:
        try:
            yield from ((name, order) for order in SOLVERS.orders(name))
        except ProgramError:
            yield name, None


def sample_error(exact: SimpleNamespace, program: Program, alpha: Callable[[float], float], last: float, seed: int) -> float:
    """Relative error of samples from the probability-flow ODE, for data of two Gaussians."""
    data, latents = exact.MixtureData(), np.random.default_rng(seed).normal(size=(5, 4))
    network = exact.ideal_network(program.meta["schedule"]["prediction"], data, exact.levels_of(program, alpha))
    first = program.rows[0].sigma
    wanted = data.move(latents * program.init_scale, (alpha(first), first), (alpha(last), last))
    return float(np.linalg.norm(run(program, network, latents) - wanted) / np.linalg.norm(wanted))


def moment_error(exact: SimpleNamespace, program: Program, alpha: Callable[[float], float], last: float, seed: int) -> float:
    """Relative error of mean and standard deviation of the samples, for Gaussian data.

    Its denoiser is affine, so the rows run on coefficients: of 1, of the start's unit normal and of each draw.
    """
    data = exact.GaussianData(np.random.default_rng(seed))
    rows, columns = iter(program.rows), iter(range(2, 2 + len(program.draws)))

    def moments(level: tuple[float, float]) -> np.ndarray:
        return np.array([level[0] * data.mean, np.hypot(level[0] * data.std, level[1])])

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row = next(rows)
        assert row.level is not None
        zero = data.denoise(0 * data.mean, *row.level)
        x = sample / row.c_in
        denoised = x * (data.denoise(data.mean + 1, *row.level) - data.denoise(data.mean, *row.level))[:, None]
        denoised[:, 0] += zero
        return (denoised - row.c_skip * x) / row.c_out

    def draw(seeds: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.tile(np.eye(1, shape[1], next(columns)), (shape[0], 1))

    first = program.rows[0].sigma
    start = np.zeros((len(data.mean), 2 + len(program.draws)))
    start[:, :2] = moments((alpha(first), first)).T
    end = run(program, network, start / program.init_scale, draw=draw)
    found, wanted = np.array([end[:, 0], np.linalg.norm(end[:, 1:], axis=1)]), moments((alpha(last), last))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def errors_of(exact: SimpleNamespace, solver: str, order: Order, path: str, steps: tuple[int, int], seed: int) -> list[float]:
    """The errors of a solver at two numbers of steps: of the sample, or of its moments where the solver adds noise."""
    make, alpha, last = PATHS[path]
    programs = [build(make(n), solver, n, **order.options) for n in steps]
    error = moment_error if programs[0].draws else sample_error
    return [error(exact, program, alpha, last, seed) for program in programs]


def has_order(exact: SimpleNamespace, solver: str, order: Order, path: str, seed: int) -> bool:
    """Whether the error falls as declared, and is small."""
    if order.order == 4:  # beyond these steps there is rounding alone
        errors = errors_of(exact, solver, order, path, (160, 320), seed)
        return math.log2(errors[0] / errors[1]) > 3.75 and errors[1] < 1e-4
    for steps in ((150, 300), (600, 1200)):  # two errors of opposite sign may hide the order at first
        errors = errors_of(exact, solver, order, path, steps, seed)
        slope = math.log2(errors[0] / errors[1])
        if slope > order.order - 0.25 and errors[1] < LARGEST_ERRORS[order.order]:
            return order.order > 0 or slope < 0.25
    return False


@pytest.mark.parametrize(("solver", "order"), list(declared()))
def test_order_of_convergence(exact: SimpleNamespace, rng: np.random.Generator, solver: str, order: Order | None) -> None:
    """The first steps of a multistep method are of low order, which limits the whole to order 2, or 3 with a corrector."""
    if order is None:
        (order,) = SOLVERS.orders(solver)  # raises the sentence that says what to add
    for path in ["even"] if order.equal_steps else ["edm", "flow"]:
        assert has_order(exact, solver, order, path, int(rng.integers(2**32))), path


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [("euler", Order(2)), ("dpmpp_2m", Order(3)), ("ddpm", Order(2)), ("lcm", Order(1)), ("ddim", Order(0)), ("unipc", Order(4))],
)
def test_a_wrong_order_is_noticed(exact: SimpleNamespace, rng: np.random.Generator, solver: str, wrong: Order) -> None:
    assert not has_order(exact, solver, wrong, "edm", int(rng.integers(2**32)))


def test_a_solver_without_an_order_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOLVERS, "_things", dict(SOLVERS._things))
    SOLVERS.register("mine")(SOLVERS["euler"])
    assert ("mine", None) in list(declared())
    with pytest.raises(ProgramError, match=r"solver 'mine' declares no order .* @SOLVERS.register\('mine', order=2\)"):
        SOLVERS.orders("mine")
    with pytest.raises(ProgramError, match="unknown solver 'other'"):
        SOLVERS.orders("other")


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
    *((name, {}) for name in SOLVERS if build(NARROW, name, 9).draws),
    ("dpmpp_2s", {"eta": 1.0}),
    ("dpmpp_sde", {"eta": 0.5}),
    ("dpmpp_3m_sde", {"eta": 0.6}),
    ("sa_solver", {"tau": 0.4, "predictor_order": 3, "corrector_order": 3}),
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
