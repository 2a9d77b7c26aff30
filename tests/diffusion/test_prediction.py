"""Predictions: D = c_skip x + c_out F undoes what each kind of network is trained to say, in any coordinates."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import PREDICTIONS, build
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

KINDS = ["denoised", "edm", "epsilon", "flow", "v", "x0"]  # and "consistency", whose D is no mean of the clean sample


def coordinates(rng: np.random.Generator) -> list[tuple[float, float]]:
    sigma, t, angle = float(np.exp(rng.normal() * 2)), float(rng.uniform(0.01, 0.99)), float(rng.uniform(0.05, 1.5))
    return [(1.0, sigma), (1 - t, t), (math.cos(angle), math.sin(angle)), (0.7, sigma)]


def test_every_kind_of_the_contract_is_there() -> None:
    assert sorted(PREDICTIONS) == sorted([*KINDS, "consistency"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_ideal_output_gives_the_clean_sample(exact: SimpleNamespace, rng: np.random.Generator, kind: str) -> None:
    for alpha, sigma in coordinates(rng):
        x0, eps = rng.normal(size=(2, 50))
        x = alpha * x0 + sigma * eps
        c_in, c_skip, c_out = PREDICTIONS[kind](alpha, sigma)
        assert np.allclose(c_skip * x + c_out * exact.ideal_output(kind, x, x0, alpha, sigma), x0, rtol=1e-10, atol=1e-10)
        assert c_in > 0


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
def test_vp_networks_see_the_variance_preserving_sample(rng: np.random.Generator, kind: str) -> None:
    """k-diffusion's scaling: the network's input is sqrt(abar) x0 + sqrt(1 - abar) eps with abar = 1 / (1 + sigma²)."""
    sigma = float(np.exp(rng.normal()))
    x0, eps = rng.normal(size=(2, 9))
    signal = 1 / (1 + sigma**2)
    assert np.allclose(
        PREDICTIONS[kind](1.0, sigma).c_in * (x0 + sigma * eps), math.sqrt(signal) * x0 + math.sqrt(1 - signal) * eps
    )


def test_edm_keeps_unit_variance_in_and_out(rng: np.random.Generator) -> None:
    """Karras et al. 2022, appendix B.6: with data of variance sigma_data² the network's input and target have variance 1."""
    for alpha, sigma in coordinates(rng):
        sigma_data = float(rng.uniform(0.2, 2))
        c_in, c_skip, c_out = PREDICTIONS["edm"](alpha, sigma, sigma_data=sigma_data)
        assert c_in**2 * (alpha**2 * sigma_data**2 + sigma**2) == pytest.approx(1)
        target = (1 - c_skip * alpha) ** 2 * sigma_data**2 + c_skip**2 * sigma**2
        assert target / c_out**2 == pytest.approx(1)


def test_edm_is_table_1() -> None:
    sigma, sigma_data = 3.0, 0.5
    assert PREDICTIONS["edm"](1.0, sigma) == pytest.approx(
        (
            1 / math.sqrt(9.25),
            sigma_data**2 / (sigma**2 + sigma_data**2),
            sigma * sigma_data / math.sqrt(sigma**2 + sigma_data**2),
        )
    )


@pytest.mark.parametrize("kind", ["edm", "flow", "v", "x0"])
def test_pure_noise_has_finite_coefficients(exact: SimpleNamespace, rng: np.random.Generator, kind: str) -> None:
    c_in, c_skip, c_out = PREDICTIONS[kind](0.0, 1.0)
    assert np.isfinite([c_in, c_skip, c_out]).all()
    if kind != "edm":
        x0, eps = rng.normal(size=(2, 9))
        assert np.allclose(c_skip * eps + c_out * exact.ideal_output(kind, eps, x0, 0.0, 1.0), x0)


def test_a_network_that_returns_the_denoised_sample_sees_it_unscaled(rng: np.random.Generator) -> None:
    for alpha, sigma in coordinates(rng):
        x0, eps = rng.normal(size=(2, 9))
        c_in, c_skip, c_out = PREDICTIONS["denoised"](alpha, sigma)
        np.testing.assert_allclose(c_in * (alpha * x0 + sigma * eps), x0 + sigma / alpha * eps)
        assert (c_skip, c_out) == (0.0, 1.0)
    with pytest.raises(ProgramError, match="no input where alpha is 0"):
        PREDICTIONS["denoised"](0.0, 1.0)


@pytest.mark.parametrize("time", ["log", "sigma"])
def test_an_edm_schedule_tells_the_network_ln_sigma_or_sigma(time: str) -> None:
    program = build({"prediction": "denoised", "time": time, "sigma_max": 5.0}, "euler", 3)
    expected = [row.sigma if time == "sigma" else math.log(row.sigma) / 4 for row in program.rows]
    assert [row.timestep for row in program.rows] == pytest.approx(expected)
    with pytest.raises(ProgramError, match="time must be 'log' or 'sigma'"):
        build({"prediction": "edm", "time": "t"}, "euler", 3)


def test_epsilon_of_pure_noise_is_refused() -> None:
    with pytest.raises(ProgramError, match="predicts nothing about the image where alpha is 0"):
        build({"prediction": "epsilon", "kind": "flow"}, "euler", 4)


@pytest.mark.parametrize("sigma_data", [0, -1.0, float("nan"), "0.5"])
def test_sigma_data_must_be_positive(sigma_data: Any) -> None:
    with pytest.raises(ProgramError, match="sigma_data must be"):
        build({"prediction": "edm", "sigma_data": sigma_data}, "euler", 4)


@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "euler_ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("path", ["edm", "flow", "vp"])
def test_all_kinds_walk_the_same_trajectory(exact: SimpleNamespace, rng: np.random.Generator, solver: str, path: str) -> None:
    """The same exact denoiser behind every kind of network gives the same samples."""
    data, latents = exact.GaussianData(rng), rng.normal(size=(3, 5))
    noise = {index: rng.normal(size=(3, 5)) for index in range(40)}
    schedule: dict[str, Any] = {"kind": path} | ({"betas": "scaled_linear", "spacing": "trailing"} if path == "vp" else {})
    results = []
    for kind in KINDS:
        if kind == "epsilon" and path == "flow":
            continue
        start = {"kind": "table", "sigmas": np.linspace(0.95, 0, 9).tolist(), "alphas": np.linspace(0.05, 1, 9).tolist()}
        program = build({"prediction": kind} | (start if path == "flow" else schedule), solver, 8)
        network = exact.ideal_network(
            kind, data, exact.levels_of(program, (lambda s: 1 - s) if path == "flow" else (lambda s: 1.0))
        )
        scale = 1 / program.init_scale  # schedules start at their own standard deviation; here all start alike
        results.append(run(program, network, latents * scale, draw=lambda seeds, index, shape: noise[index]))
    for other in results[1:]:
        assert np.allclose(other, results[0], rtol=1e-9, atol=1e-9)
