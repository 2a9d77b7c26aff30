"""Tables say the same as the programs they come from and go to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import SOLVERS, Program, build, reference
from aigc_edge.errors import ProgramError
from aigc_edge.tuning.conversion import MAX_NFE, from_program, to_program
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import CoefficientTable


def by_hand(table: CoefficientTable, path: NoisePath, network: Any, latents: np.ndarray) -> np.ndarray:
    """The definition of a table, in float64."""
    known = [latents]
    for line, level in zip(table.weights, table.levels, strict=False):
        sample = sum(w * k for w, k in zip(line, known, strict=False))
        known.append(network(sample, np.full(len(latents), path.timestep(level)), None))
    return np.asarray(sum(w * k for w, k in zip(table.weights[-1], known, strict=True)))


def deterministic(schedule: dict[str, Any], nfe: int) -> list[Program]:
    found = []
    for solver in SOLVERS:
        try:
            program = build(schedule, solver, nfe)
        except ProgramError:
            continue
        if not any(any(row.after_noise or ()) or any(row.before_noise or ()) for row in program.rows) and program.nfe <= 15:
            found.append(program)
    return found


def test_every_solver_unrolls_to_what_it_computes(schedule: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(schedule, tools.two_points)
    latents = rng.standard_normal((3, 5))
    programs = deterministic(schedule, 5)
    compared = 0
    for program in programs:
        try:
            table = from_program(program, toy.path)
        except ProgramError:  # middle levels off the sphere
            assert schedule.get("zero_terminal_snr"), program.name
            continue
        compared += 1
        wanted = reference.run(program, toy, latents)
        assert np.allclose(by_hand(table, toy.path, toy, latents), wanted, rtol=1e-8, atol=1e-8), program.name
    assert compared >= 8


def test_levels_off_the_path_are_refused(tools: Any) -> None:
    schedule = tools.schedules["zero_snr"]
    with pytest.raises(ProgramError, match="does not pass"):
        from_program(build(schedule, "midpoint", 3), NoisePath(schedule, 64))


def test_rolling_gives_the_same_table_in_no_more_slots(schedule: dict[str, Any], tools: Any) -> None:
    path = NoisePath(schedule, 64)
    for program in deterministic(schedule, 6):
        try:
            table = from_program(program, path)
        except ProgramError:
            assert schedule.get("zero_terminal_snr"), program.name
            continue
        again = to_program(table, path, "again", 1.0)
        assert again.slots <= program.slots, program.name
        assert np.allclose(from_program(again, path).weights, table.weights, rtol=1e-9, atol=1e-9 * np.abs(table.weights).max())


@pytest.mark.parametrize("nfe", [1, 2, 7, 8, MAX_NFE])
def test_any_table_fits_half_as_many_slots(nfe: int, schedule: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(schedule, tools.two_points)
    table = tools.table(rng, toy.path, nfe, 0.1)
    program = to_program(table, toy.path, "any", 3.0, {"solver": "tuned"})
    assert program.slots == nfe // 2 + 1
    assert (program.nfe, program.guidance_scale, program.meta) == (nfe, 3.0, {"solver": "tuned"})
    latents = rng.standard_normal((4, 7))
    wanted = by_hand(table, toy.path, toy, latents)
    assert np.allclose(reference.run(program, toy, latents, guidance_scale=1.0), wanted, rtol=1e-7, atol=1e-7)
    single = reference.run(program, toy, latents.astype(np.float32), guidance_scale=1.0, dtype=np.float32)
    assert np.abs(single - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_rows_are_told_what_they_are_computed_for(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    path = NoisePath(edm, 64)
    program = to_program(tools.table(rng, path, 4), path, "any", 1.0)
    assert len(program.rows) == 4
    for row in program.rows:
        assert row.timestep == pytest.approx(np.log(row.sigma) / 4)
        assert row.c_in == pytest.approx(1 / np.hypot(row.sigma, 0.5))
        assert row.c_skip == pytest.approx(0.25 / (row.sigma**2 + 0.25))


def test_too_many_evaluations_are_refused(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    path = NoisePath(edm, 64)
    with pytest.raises(ProgramError, match="16 evaluations needs 9 slots"):
        to_program(tools.table(rng, path, MAX_NFE + 1), path, "any", 1.0)


@pytest.mark.parametrize(
    ("solver", "options"), [("euler_ancestral", {}), ("ddim", {"clip": (-1, 1)}), ("euler", {"s_churn": 1.0})]
)
def test_what_is_no_table_is_refused(edm: dict[str, Any], solver: str, options: dict[str, Any]) -> None:
    with pytest.raises(ProgramError, match="adds noise or clips"):
        from_program(build(edm, solver, 4, **options), NoisePath(edm, 64))


def test_weights_that_look_ahead_are_refused() -> None:
    with pytest.raises(ProgramError, match="lower triangular"):
        CoefficientTable(np.zeros(2), np.ones((3, 3)))


def test_levels_of_a_path_come_back(schedule: dict[str, Any]) -> None:
    path = NoisePath(schedule, 20)
    for row in build(schedule, "ddim", 20).rows:
        log = path.of_sigma(row.sigma)
        assert path.low - 1e-9 <= log <= path.high
        assert path.level(log).sigma == pytest.approx(row.sigma)
        assert path.timestep(log) == pytest.approx(row.timestep, abs=1e-6)
        assert path.coefficients(log) == pytest.approx((row.c_in, row.c_skip, row.c_out))


def test_levels_on_no_path_are_refused() -> None:
    odd = {"prediction": "flow", "kind": "table", "sigmas": [0.9, 0.5, 0.0], "alphas": [0.3, 0.4, 1.0]}
    with pytest.raises(ProgramError, match="alpha = 1, alpha \\+ sigma = 1"):
        NoisePath(odd, 2)
    with pytest.raises(ProgramError, match="no noise level"):
        NoisePath({"prediction": "flow"}, 4).of_sigma(1.5)
