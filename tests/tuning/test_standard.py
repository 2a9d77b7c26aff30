"""What a tuned program is compared with: everything a user could build, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_edge.diffusion import build
from aigc_edge.tuning.standard import standard_programs


@pytest.mark.parametrize("nfe", [1, 4])
def test_all_make_the_evaluations_and_no_noise(nfe: int, schedule: dict[str, Any]) -> None:
    found = standard_programs(schedule, nfe, 2.5)
    assert found
    for one in found:
        assert one.program.nfe == nfe
        assert one.program.guidance_scale == 2.5
        assert not any(any(row.after_noise or ()) or any(row.before_noise or ()) for row in one.program.rows)
    assert len({one.name for one in found}) == len(found)
    assert len({one.program.rows for one in found}) == len(found)


def test_solvers_of_two_evaluations_a_step_are_there(edm: dict[str, Any]) -> None:
    names = {one.name for one in standard_programs(edm, 5)}
    assert {"heun-3", "deis-5", "unipc-5", "ddim-5", "dpmpp_2m-5, exponential", "deis-5, karras, to sigma_min"} <= names
    assert not {"euler_ancestral-5", "ddpm-5", "lcm-5"} & names


def test_spacings_are_those_of_the_schedule(schedule: dict[str, Any]) -> None:
    spacings = {one.spacing for one in standard_programs(schedule, 4)}
    if schedule["prediction"] == "edm":
        assert {"", "exponential", "karras, to sigma_min"} <= spacings
    if schedule["prediction"] == "epsilon":
        assert {"", "trailing", "linspace", "karras"} <= spacings
    if schedule["prediction"] == "flow":
        assert {"", "beta"} <= spacings


def test_a_program_is_what_build_makes(edm: dict[str, Any]) -> None:
    one = next(one for one in standard_programs(edm, 6, 2.0) if one.name == "deis-6, exponential")
    assert one.program.rows == build(edm | {"spacing": "exponential"}, "deis", 6).rows
