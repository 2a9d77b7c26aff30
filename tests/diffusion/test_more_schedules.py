"""Beta, polynomial, resampled and zero-terminal-SNR schedules against their definitions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import build, resolve
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

AYS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)  # Sabour et al. 2024, Stable Diffusion 1.5
ZERO = {"prediction": "v", "betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "zero_terminal_snr": True}


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_beta_spacing_is_the_quantiles(steps: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    program = build({"prediction": "v", "betas": "cosine", "spacing": "beta"}, "euler", steps)
    wanted = np.round(np.round(stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6) * 999, 6))
    assert [row.timestep for row in program.rows] == pytest.approx(wanted.tolist(), abs=1e-6)


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0])
def test_polynomial_spacing(rho: float) -> None:
    levels = resolve({"prediction": "edm", "spacing": "polynomial", "rho": rho})[0].levels(9)
    wanted = [math.exp(math.log(0.002) + (1 - i / 8) ** rho * math.log(80 / 0.002)) for i in range(9)]
    assert [level.sigma for level in levels] == pytest.approx([*wanted, 0.0])


def test_resampled_list_goes_through_its_own_levels() -> None:
    given = {"prediction": "epsilon", "kind": "table", "resample": True}
    same = resolve(given | {"sigmas": AYS})[0].levels(10)
    assert [level.sigma for level in same] == pytest.approx(AYS)
    finer = resolve(given | {"sigmas": AYS})[0].levels(20)
    assert [level.sigma for level in finer[::2]] == pytest.approx(AYS)
    assert finer[1].sigma == pytest.approx(math.sqrt(AYS[0] * AYS[1]))
    clean = resolve(given | {"sigmas": (*AYS, 0.0)})[0].levels(6)
    assert len(clean) == 7
    assert (clean[0].sigma, clean[-2].sigma, clean[-1].sigma) == (pytest.approx(AYS[0]), pytest.approx(AYS[-1]), 0.0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sigmas": [3.0]}, "two or more falling positive sigmas"),
        ({"sigmas": [1.0, 2.0]}, "two or more falling positive sigmas"),
        ({"sigmas": [2.0, 1.0], "alphas": [1.0, 1.0]}, "leave alphas and timesteps out"),
    ],
)
def test_resample_refuses(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        build({"prediction": "v", "kind": "table", "resample": True} | given, "euler", 4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_beta_spacing_of_flow_is_the_quantiles(shift: float, steps: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    program = build({"prediction": "flow", "spacing": "beta", "shift": shift}, "euler", steps)
    t = stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)
    assert [row.sigma for row in program.rows] == pytest.approx((shift * t / (1 + (shift - 1) * t)).tolist(), rel=1e-9)
    assert (program.rows[0].sigma, program.rows[-1].after[0][0]) == (1.0, 0.0)
    with pytest.raises(ProgramError, match="spacing of a flow schedule must be 'linspace' or 'beta', not 'karras'"):
        build({"prediction": "flow", "spacing": "karras"}, "euler", steps)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(("spacing", "power"), [("exponential", 1.0), ("polynomial", 1.7), ("karras", 7.0)])
def test_spacings_of_sigmas_of_a_network_of_timesteps(spacing: str, power: float, steps: int) -> None:
    """Between the first and the last training timestep, each formula written for one sigma at a time."""
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    table = np.sqrt((1 - signal) / signal)
    low, high = table[[0, -1]].tolist()
    program = build({"prediction": "epsilon", "betas": "linear", "spacing": spacing, "rho": power}, "euler", steps)
    for i, row in enumerate(program.rows):
        share = i / max(steps - 1, 1)
        if spacing == "karras":
            wanted = (high ** (1 / power) + share * (low ** (1 / power) - high ** (1 / power))) ** power
        else:
            wanted = low * (high / low) ** ((1 - share) ** power)
        assert row.sigma == pytest.approx(wanted, rel=1e-12)
        assert row.timestep == pytest.approx(np.interp(math.log(wanted), np.log(table), range(1000)), abs=1e-6)


AYS_TIMES = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)
LINEAR = {"prediction": "v", "betas": "linear"}


def test_given_timesteps_are_visited() -> None:
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    program = build(LINEAR | {"timesteps": AYS_TIMES}, "dpmpp_2m", 10)
    assert [row.timestep for row in program.rows] == pytest.approx(AYS_TIMES, abs=1e-9)
    assert [row.sigma for row in program.rows] == pytest.approx([math.sqrt(1 / signal[t] - 1) for t in AYS_TIMES])
    assert program.rows[-1].after[0] == (0.0, 0.0, 1.0)
    open_end = build(LINEAR | {"timesteps": AYS_TIMES, "final_sigma": "sigma_min"}, "euler", 9)
    assert open_end.rows[-1].after[0][0] * open_end.rows[-1].sigma == pytest.approx(math.sqrt(1 / signal[24] - 1))
    zero = build(ZERO | {"timesteps": AYS_TIMES}, "ddim", 10)
    assert [row.timestep for row in zero.rows] == pytest.approx(AYS_TIMES, abs=1e-6)
    assert (zero.rows[0].sigma, zero.init_scale) == (1.0, 1.0)


@pytest.mark.parametrize("steps", [2, 11, 25])
def test_given_sigmas_are_brought_to_any_number_of_steps(steps: int) -> None:
    """The network is told the timesteps that belong to them."""
    program = build(LINEAR | {"sigmas": AYS}, "euler", steps)
    places = [i * 10 / (steps - 1) for i in range(steps)]
    wanted = [math.exp(np.interp(p, range(11), np.log(AYS))) for p in places]
    assert [row.sigma for row in program.rows] == pytest.approx(wanted, rel=1e-12)
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    times = np.interp(np.log(wanted), np.log(1 / signal - 1) / 2, range(1000))
    assert [row.timestep for row in program.rows] == pytest.approx(times.tolist(), abs=1e-6)
    assert program.rows[-1].after == ((0.0, 1.0),)
    open_end = build(LINEAR | {"sigmas": AYS, "final_sigma": "sigma_min"}, "euler", 10)
    assert open_end.rows[-1].after[0][0] * open_end.rows[-1].sigma == pytest.approx(AYS[-1])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"timesteps": AYS_TIMES[:9]}, "timesteps must be 10 numbers within 0 … 999"),
        ({"timesteps": (1000, *AYS_TIMES[1:])}, "timesteps must be 10 numbers within 0 … 999"),
        ({"timesteps": AYS_TIMES[::-1]}, "noise must fall at every step"),
        ({"timesteps": AYS_TIMES, "sigmas": AYS}, "timesteps or sigmas, not both"),
        ({"timesteps": "999"}, "timesteps must be a list of numbers"),
        ({"sigmas": AYS[::-1]}, "two or more falling positive sigmas"),
        ({"sigmas": []}, "two or more falling positive sigmas"),
        ({"sigmas": AYS, "zero_terminal_snr": True}, "begins at infinity"),
    ],
)
def test_given_lists_that_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        build(LINEAR | given, "euler", 10)


def test_zero_terminal_snr_is_algorithm_1() -> None:
    """Lin et al. 2023, algorithm 1: sqrt(alpha bar) shifted and scaled to end at 0 and begin where it did."""
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - beta))
    wanted = (root - root[-1]) * root[0] / (root[0] - root[-1])
    schedule = resolve(ZERO | {"spacing": "trailing"})[0]
    levels = schedule.levels(1000)
    assert levels[0] == (0.0, 1.0)
    assert [level.alpha for level in levels[:-1]] == pytest.approx(wanted[::-1].tolist(), abs=1e-12)
    assert all(math.hypot(*level) == pytest.approx(1) for level in levels)
    assert [schedule.timestep(level) for level in levels[:-1]] == pytest.approx(list(range(999, -1, -1)), abs=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "unipc", "deis", "er_sde", "dpmpp_2s"])
def test_zero_terminal_snr_samples(exact: SimpleNamespace, rng: np.random.Generator, solver: str) -> None:
    """From pure noise with the perfect network the mean of Gaussian data comes out exactly: x = mean's own path."""
    data = exact.GaussianData(rng)
    program = build(ZERO | {"spacing": "trailing"}, solver, 200)
    levels = {row.timestep: (row.c_skip / row.c_in**2, row.sigma) for row in program.rows}  # of v, wherever
    network = exact.ideal_network("v", data, levels)
    out = run(program, network, np.zeros((1, 5)), draw=lambda seeds, index, shape: np.zeros(shape))
    assert np.allclose(out[0], data.mean, atol=1e-6)


def test_zero_terminal_snr_refuses() -> None:
    with pytest.raises(ProgramError, match="predicts nothing about the image where alpha is 0"):
        build(ZERO | {"prediction": "epsilon", "spacing": "trailing"}, "ddim", 5)
    with pytest.raises(ProgramError, match="begins at infinity: choose a spacing of timesteps"):
        build(ZERO | {"spacing": "karras"}, "ddim", 5)
