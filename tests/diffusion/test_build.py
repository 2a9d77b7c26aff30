"""What `build` makes of its arguments, and what it says when it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aigc_edge.diffusion import SOLVERS, Program, build
from aigc_edge.errors import ProgramError

EDM = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


def test_the_digits_program() -> None:
    """The bundle's own schedule, as the manifest holds it."""
    program = build(EDM, "dpmpp_2m", 10, guidance_scale=2.0)
    assert (program.name, program.slots, program.nfe, program.guidance_scale) == ("dpmpp_2m-10", 2, 10, 2.0)
    assert program.init_scale == pytest.approx(80)
    assert program.rows[0].timestep == pytest.approx(1.0955, abs=1e-4)
    assert program.meta == {"solver": "dpmpp_2m", "steps": 10, "schedule": EDM}
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_2m", "euler_ancestral"])
def test_one_evaluation_a_step(solver: str) -> None:
    assert [build(EDM, solver, n).nfe for n in (1, 2, 10)] == [1, 2, 10]


def test_heun_takes_two_but_in_the_step_to_zero() -> None:
    assert [build(EDM, "heun", n).nfe for n in (1, 2, 10)] == [1, 3, 19]
    assert build(EDM | {"final_sigma": "sigma_min"}, "heun", 10).nfe == 20


def test_options_are_kept_in_meta() -> None:
    program = build(EDM, "ddim", 4, eta=1, clip=(-1, 1), guidance_interval=[0.1, 5])
    assert program.meta["options"] == {"eta": 1.0, "clip": [-1.0, 1.0], "guidance_interval": [0.1, 5.0]}
    assert {row.clip for row in program.rows} == {(-1.0, 1.0)}


def test_guidance_interval_is_half_open() -> None:
    plain = build(EDM, "euler", 9)
    edges = plain.rows[6].sigma, plain.rows[2].sigma
    program = build(EDM, "euler", 9, guidance_scale=3.0, guidance_interval=edges)
    assert [row.guidance for row in program.rows] == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert program.weights == (1, 1, 3, 3, 3, 3, 1, 1, 1)


def test_noise_only_where_it_is_drawn() -> None:
    """No row names noise that it does not add, so executors need not draw it; the last step to 0 is silent."""
    assert all(
        row.before is None and row.before_noise is None and row.after_noise == (0.0,) for row in build(EDM, "euler", 5).rows
    )
    noisy = build(EDM, "euler_ancestral", 5).rows
    assert [row.after_noise[0] > 0 for row in noisy if row.after_noise] == [True] * 4 + [False]
    churned = build(EDM, "heun", 5, s_churn=5.0, s_tmin=1.0).rows
    assert {row.before is None for row in churned} == {True, False}
    assert all(row.before == ((1.0, 0.0), (0.0, 1.0)) for row in churned if row.before_noise)


def test_schedule_dict_is_not_shared() -> None:
    schedule: dict[str, Any] = {"prediction": "x0", "kind": "table", "sigmas": [2.0, 1.0]}
    program = build(schedule, "euler", 1)
    schedule["sigmas"][0] = 99.0
    assert program.meta["schedule"]["sigmas"] == [2.0, 1.0]


REFUSED: list[tuple[Any, Any, dict[str, Any], str]] = [
    ("dpmpp", 4, {}, "unknown solver 'dpmpp': choose one of consistency, ddim, ddpm"),
    (None, 4, {}, "the name of a solver must be text, not None: choose one of consistency"),
    ("euler", 0, {}, "steps must be a whole number within 1 … 10000, not 0"),
    ("euler", -3, {}, "steps must be a whole number"),
    ("euler", 10_001, {}, "steps must be a whole number"),
    ("euler", 5.0, {}, "steps must be a whole number within 1 … 10000, not 5.0"),
    ("euler", True, {}, "steps must be a whole number"),
    ("euler", "5", {}, "steps must be a whole number"),
    ("euler", None, {}, "steps must be a whole number"),
    ("heun", 10_000, {}, "at most 10000 rows, not 19999: take fewer steps"),
    (
        "euler",
        4,
        {"eta": 1.0},
        "unknown option 'eta' of solver 'euler': it takes s_churn, s_tmin, s_tmax, s_noise, clip, threshold, guidance_interval",
    ),
    ("ddim", 4, {"ETA": 1.0}, "unknown option 'ETA' of solver 'ddim': it takes eta, clip"),
    ("ddim", 4, {"eta": "1"}, "eta must be a number, not '1'"),
    ("ddim", 4, {"eta": True}, "eta must be a number, not True"),
    ("ddim", 4, {"eta": float("nan")}, "eta must be a finite number"),
    ("dpmpp_2m", 4, {"lower_order_final": 1}, "lower_order_final must be true or false"),
    ("euler", 4, {"guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
    ("euler", 4, {"guidance_scale": "2"}, "guidance_scale must be a number"),
    ("euler", 4, {"clip": 1.0}, "clip must be a list of numbers"),
    ("euler", 4, {"clip": (1, -1)}, "low < high"),
    ("euler", 4, {"clip": (1, 2, 3)}, "clip must hold 2 numbers, it holds 3"),
    ("euler", 4, {"guidance_interval": (5, 1)}, "guidance_interval must be .low, high. with low < high"),
]


@pytest.mark.parametrize(("solver", "steps", "given", "words"), REFUSED, ids=[words[:40] for *_, words in REFUSED])
def test_refusals_say_what_is_allowed(solver: Any, steps: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        build(EDM, solver, steps, **given)


@pytest.mark.parametrize(
    ("solver", "given", "words"),
    [
        ("ddim", {"eta": 1.5}, "eta must be within 0 … 1, not 1.5"),
        ("ddim", {"eta": -0.1}, "eta must be within 0 … 1"),
        ("euler_ancestral", {"eta": -1}, "eta must be at least 0"),
        ("euler_ancestral", {"s_noise": -1}, "s_noise must be at least 0"),
        ("heun", {"s_churn": -1}, "s_churn must be at least 0"),
        ("euler", {"s_noise": -0.5}, "s_noise must be at least 0"),
    ],
)
def test_options_out_of_range(solver: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        build(EDM, solver, 4, **given)


def test_whole_numbers_of_numpy_are_steps() -> None:
    numpy = pytest.importorskip("numpy")
    assert build(EDM, "euler", numpy.int64(3)) == build(EDM, "euler", 3)


def test_a_new_solver_is_one_generator() -> None:
    """Nothing else has to be told of it: its options come from its signature."""
    from aigc_edge.diffusion.solvers import Step

    @SOLVERS.register("test_lazy")
    def lazy(levels: Any, *, pull: float = 1.0) -> Any:
        yield Step(levels[0], ((1 - pull, pull),))

    try:
        assert build(EDM, "test_lazy", 7, pull=0.25).rows[0].after == ((0.75, 0.25),)
        with pytest.raises(ProgramError, match="it takes pull, clip"):
            build(EDM, "test_lazy", 7, push=1)
    finally:
        del SOLVERS._things["test_lazy"]
