"""Schedules against their papers' formulas, term by term, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import SCHEDULES, Program, build
from aigc_edge.errors import ProgramError

SD = {"prediction": "epsilon", "betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "train_steps": 1000}


def sigmas(program: Program) -> np.ndarray:
    return np.array([row.sigma for row in program.rows])


def timesteps(program: Program) -> np.ndarray:
    return np.array([row.timestep for row in program.rows])


def vp_sigma(betas: np.ndarray, t: Any) -> np.ndarray:
    """sqrt((1 - abar) / abar) with abar as a plain running product."""
    table, signal = [], 1.0
    for beta in betas:
        signal *= 1 - beta
        table.append(math.sqrt((1 - signal) / signal))
    return np.array(table)[np.asarray(t, int)]


def test_kinds() -> None:
    assert sorted(SCHEDULES) == ["edm", "flow", "table", "vp"]


@pytest.mark.parametrize("steps", [2, 3, 18, 40])
def test_karras(steps: int) -> None:
    program = build({"prediction": "edm", "sigma_min": 0.01, "sigma_max": 50.0, "rho": 5.0}, "euler", steps)
    wanted = [(50**0.2 + i / (steps - 1) * (0.01**0.2 - 50**0.2)) ** 5 for i in range(steps)]
    assert np.allclose(sigmas(program), wanted, rtol=1e-12)
    assert np.allclose(timesteps(program), np.log(wanted) / 4)
    assert program.init_scale == pytest.approx(50, rel=1e-14)


def test_exponential_has_a_constant_ratio() -> None:
    found = sigmas(build({"prediction": "edm", "spacing": "exponential"}, "euler", 12))
    assert np.allclose(found[1:] / found[:-1], (0.002 / 80) ** (1 / 11))
    assert found[[0, -1]] == pytest.approx([80, 0.002])


def test_one_step_starts_at_the_top() -> None:
    for spacing in ("karras", "exponential"):
        program = build({"prediction": "edm", "spacing": spacing}, "euler", 1)
        assert sigmas(program) == pytest.approx([80.0])
        assert program.rows[0].after == ((0.0, 1.0),)


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_final_sigma_min_spends_its_steps_above_it(spacing: str) -> None:
    whole = sigmas(build({"prediction": "edm", "spacing": spacing}, "euler", 9))
    program = build({"prediction": "edm", "spacing": spacing, "final_sigma": "sigma_min"}, "euler", 8)
    assert np.allclose(sigmas(program), whole[:-1])
    assert program.rows[-1].after[0][0] == pytest.approx(0.002 / whole[-2])


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        ({"betas": "linear", "beta_start": 1e-4, "beta_end": 0.02, "train_steps": 1000}, np.linspace(1e-4, 0.02, 1000)),
        ({"betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
        ({"betas": "linear", "beta_start": 1e-3, "beta_end": 0.3, "train_steps": 40}, np.linspace(1e-3, 0.3, 40)),
    ],
)
def test_vp_betas(schedule: dict[str, Any], betas: np.ndarray) -> None:
    program = build({"prediction": "v", "spacing": "trailing"} | schedule, "euler", 10)
    times = len(betas) - np.arange(10) * len(betas) // 10 - 1
    assert np.allclose(timesteps(program), times, rtol=1e-12, atol=1e-9)
    assert np.allclose(sigmas(program), vp_sigma(betas, times), rtol=1e-11)
    assert program.init_scale == pytest.approx(math.hypot(1, sigmas(program)[0]))


def test_cosine_is_the_paper_s() -> None:
    """Nichol and Dhariwal 2021, equation 17: abar(t) = f(t) / f(0); equal to the product of the betas up to their cap."""
    program = build({"prediction": "epsilon", "betas": "cosine", "spacing": "leading"}, "euler", 20)
    times = np.round(timesteps(program))
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (*times + 1, 0)]
    signal = np.array(f[:-1]) / f[-1]
    assert np.allclose(sigmas(program), np.sqrt((1 - signal) / signal), rtol=1e-9)
    top = build({"prediction": "epsilon", "betas": "cosine", "spacing": "linspace"}, "euler", 5)
    assert 1e3 < sigmas(top)[0] < 1e5  # the capped last beta leaves a little signal


@pytest.mark.parametrize(
    ("spacing", "offset", "times"),
    [
        ("leading", 0, [800, 600, 400, 200, 0]),
        ("leading", 1, [801, 601, 401, 201, 1]),
        ("trailing", 0, [999, 799, 599, 399, 199]),
        ("trailing", 0, [999, 856, 713, 570, 428, 285, 142]),
        ("leading", 2, [854, 712, 570, 428, 286, 144, 2]),
        ("linspace", 0, [999, 749.25, 499.5, 249.75, 0]),
    ],
)
def test_time_spacings(spacing: str, offset: int, times: list[float]) -> None:
    program = build(SD | {"spacing": spacing, "steps_offset": offset}, "euler", len(times))
    assert np.allclose(timesteps(program), times, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 7, 30, 999])
def test_uneven_spacings_fall_all_the_way(steps: int) -> None:
    for spacing in ("leading", "trailing", "linspace", "karras", "exponential"):
        program = build(SD | {"spacing": spacing}, "euler", steps)
        assert (np.diff(timesteps(program)) < 0).all()
        assert (np.diff(sigmas(program)) < 0).all()
        assert program.rows[-1].after == ((0.0, 1.0),)


def test_vp_final_sigma_min_is_the_first_training_timestep() -> None:
    low = math.sqrt(0.00085 / (1 - 0.00085))
    for spacing, offset in (("leading", 1), ("trailing", 0), ("linspace", 0), ("karras", 0)):
        program = build(SD | {"spacing": spacing, "steps_offset": offset, "final_sigma": "sigma_min"}, "euler", 6)
        assert program.rows[-1].after[0][0] * program.rows[-1].sigma == pytest.approx(low, rel=1e-10)
    times = timesteps(build(SD | {"spacing": "linspace", "final_sigma": "sigma_min"}, "euler", 3))
    assert np.allclose(times, [999, 666, 333])


def test_timestep_between_two_is_interpolated_in_log_sigma() -> None:
    program = build(SD | {"spacing": "linspace"}, "euler", 5)
    table = np.log(vp_sigma(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, range(1000)))
    assert np.log(sigmas(program)[1]) == pytest.approx(0.75 * table[749] + 0.25 * table[750])


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_flow(shift: float) -> None:
    program = build({"prediction": "flow", "shift": shift, "timestep_scale": 1000}, "euler", 8)
    t = np.linspace(1, 0, 9)[:-1]
    wanted = shift * t / (1 + (shift - 1) * t)
    assert np.allclose(sigmas(program), wanted)
    assert np.allclose(timesteps(program), 1000 * wanted)
    assert sigmas(program)[0] == program.init_scale == 1
    assert timesteps(build({"prediction": "flow"}, "euler", 8))[0] == 1


def test_table_takes_levels_as_they_are() -> None:
    given = {"prediction": "x0", "kind": "table", "sigmas": [3.0, 1.0, 0.25], "timesteps": [900, 500.5], "init_scale": 3.5}
    program = build(given, "euler", 2)
    assert timesteps(program).tolist() == [900, 500.5]
    assert (program.init_scale, sigmas(program)[0]) == (3.5, 3)
    assert build({"prediction": "x0", "kind": "table", "sigmas": [3.0, 1.0, 0.25]}, "euler", 2).rows[1].timestep == 0
    with pytest.raises(ProgramError, match="one for the last sigma too"):
        build(given, "heun", 2)
    assert timesteps(build(given | {"timesteps": [900, 500.5, 3]}, "heun", 2)).tolist() == [900, 500.5, 500.5, 3]


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "ddim", "euler_ancestral"])
def test_ten_thousand_steps(solver: str) -> None:
    for schedule in ({"prediction": "edm"}, {"prediction": "flow"}, SD | {"spacing": "karras"}):
        program = build(schedule, solver, 10_000)
        assert program.nfe == 10_000
        assert (np.diff(sigmas(program)) < 0).all()


REFUSED: list[tuple[Any, int, str]] = [
    (None, 4, "a schedule must be an object with a prediction .one of consistency, denoised, edm, epsilon, flow, v, x0."),
    ({}, 4, "a schedule must be an object with a prediction"),
    ({"prediction": "score"}, 4, "unknown prediction 'score': choose one of consistency, denoised, edm, epsilon, flow, v, x0"),
    ({"prediction": ["edm"]}, 4, "the name of a prediction must be text"),
    ({"prediction": "edm", "kind": "ve"}, 4, "unknown schedule kind 've': choose one of edm, flow, table, vp"),
    ({"prediction": "edm", "sigma_mim": 1}, 4, "unknown option 'sigma_mim' .*: it takes sigma_min, sigma_max, rho, spacing"),
    ({"prediction": "edm", "sigma_min": 2.0, "sigma_max": 1.0}, 4, "needs 0 < sigma_min < sigma_max, not 2 and 1"),
    ({"prediction": "edm", "sigma_min": 0}, 4, "needs 0 < sigma_min"),
    ({"prediction": "edm", "sigma_max": float("inf")}, 4, "sigma_max must be a finite number"),
    ({"prediction": "edm", "sigma_max": "80"}, 4, "sigma_max must be a number, not '80'"),
    ({"prediction": "edm", "rho": 0}, 4, "rho must be within 0.1 … 1000, not 0"),
    ({"prediction": "edm", "spacing": "beta"}, 4, "unknown spacing of sigmas 'beta': choose one of exponential, karras"),
    ({"prediction": "edm", "spacing": 3}, 4, "spacing must be text"),
    ({"prediction": "edm", "final_sigma": "none"}, 4, "final_sigma must be 'zero' or 'sigma_min'"),
    ({"prediction": "epsilon"}, 4, "schedule 'vp' with prediction 'epsilon' needs betas"),
    ({"prediction": "v", "betas": "sigmoid"}, 4, "betas must be one of linear, scaled_linear, cosine"),
    ({"prediction": "v", "betas": "linear", "beta_end": 2}, 4, "0 < beta_start <= beta_end < 1"),
    ({"prediction": "v", "betas": "linear", "beta_start": 0.9, "beta_end": 0.99}, 4, "leave no signal"),
    ({"prediction": "v", "betas": "linear", "beta_start": 1e-30, "beta_end": 1e-30}, 4, "add no noise"),
    ({"prediction": "v", "betas": "linear", "train_steps": 1.5}, 4, "train_steps must be a whole number"),
    ({"prediction": "v", "betas": "linear", "train_steps": 0}, 4, "train_steps must be a whole number within 2"),
    ({"prediction": "v", "betas": "linear", "spacing": "odd"}, 4, "unknown spacing 'odd': choose one of beta, leading, linspace"),
    (SD | {"spacing": "leading", "steps_offset": 300}, 4, "visit timesteps 300 … 1050, the network knows 0 … 999"),
    (SD | {"spacing": "leading"}, 2000, "noise must fall at every step.*take fewer steps"),
    (SD | {"spacing": "trailing"}, 2000, "visit timesteps -1 … 999.*take fewer steps"),
    (SD | {"spacing": "leading", "final_sigma": "sigma_min"}, 5, "noise must fall at every step.*final_sigma"),
    ({"prediction": "flow", "shift": 0}, 4, "shift must be within 0.001 … 1000"),
    ({"prediction": "v", "kind": "edm", "betas": "linear"}, 4, "unknown option 'betas'"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, 1.0]}, 4, "a schedule of 2 sigmas has 1 steps, not 4"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, 2.0]}, 1, "noise must fall at every step"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, -1.0]}, 1, "noise must fall at every step"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, 1.0], "alphas": [1.0, 0.5]}, 1, "noise must fall at every step"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, 1.0], "alphas": [1.0]}, 1, "alphas must be as many as sigmas"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, 1.0], "alphas": [0.0, 1.0]}, 1, "give timesteps or begin later"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, 1.0], "timesteps": [1.0, 2.0, 3.0]}, 1, "timesteps must be 1 or 2"),
    ({"prediction": "x0", "kind": "table", "sigmas": [2.0, float("nan")]}, 1, "sigmas must be a finite number, not nan"),
    ({"prediction": "x0", "kind": "table", "sigmas": "2, 1"}, 1, "sigmas must be a list of numbers"),
    ({"prediction": "x0", "kind": "table"}, 1, "needs sigmas"),
]


@pytest.mark.parametrize(("schedule", "steps", "words"), REFUSED, ids=[words[:30] for _, _, words in REFUSED])
def test_refusals_say_what_is_allowed(schedule: Any, steps: int, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        build(schedule, "euler", steps)
