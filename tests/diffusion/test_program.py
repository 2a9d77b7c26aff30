"""The program's JSON: read back bit for bit, and refused with a reason when it is not one."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_edge.diffusion import Program, Row, build, format_table
from aigc_edge.errors import ProgramError

FINITE = st.floats(-3.4e38, 3.4e38, allow_nan=False)


@st.composite
def rows(draw: st.DrawFn, slots: int) -> Row:
    vector = st.tuples(*[FINITE] * slots)
    return Row(
        sigma=draw(FINITE),
        timestep=draw(FINITE),
        c_in=draw(FINITE),
        c_skip=draw(FINITE),
        c_out=draw(FINITE),
        guidance=draw(st.floats(0, 1)),
        clip=draw(st.none() | st.tuples(st.floats(-1e6, -1e-6), st.floats(1e-6, 1e6))),
        before=draw(st.none() | st.tuples(*[vector] * slots)),
        before_noise=draw(st.none() | vector),
        after=draw(st.tuples(*[st.tuples(*[FINITE] * (slots + 1))] * slots)),
        after_noise=draw(vector),
    )


@st.composite
def programs(draw: st.DrawFn) -> Program:
    slots = draw(st.integers(1, 8))
    json_value = st.recursive(
        st.none() | st.booleans() | FINITE | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
    return Program(
        name=draw(st.text(min_size=1)),
        slots=slots,
        init_scale=draw(FINITE),
        guidance_scale=draw(FINITE),
        rows=tuple(draw(st.lists(rows(slots), max_size=3))),
        meta=draw(st.dictionaries(st.text(), json_value, max_size=2)),
    )


@settings(deadline=None, max_examples=60)
@given(programs())
def test_json_round_trip_is_exact(program: Program) -> None:
    text = json.dumps(program.to_json(), allow_nan=False)
    back = Program.from_json(json.loads(text))
    assert back == program
    assert json.dumps(back.to_json()) == text  # the very same digits, -0.0 included


@settings(deadline=None, max_examples=30)
@given(programs())
def test_programs_can_be_copied_pickled_and_printed(program: Program) -> None:
    assert pickle.loads(pickle.dumps(program)) == program == copy.deepcopy(program)
    assert hash(program) == hash(copy.deepcopy(program))
    assert format_table(program).count("\n") == (program.nfe + 1 if program.rows else 0) + program.name.count("\n")


def test_json_has_exactly_the_members_of_the_contract(small: dict[str, Any]) -> None:
    value = Program.from_json(small).to_json()
    assert list(value) == ["version", "name", "slots", "init_scale", "guidance_scale", "rows", "meta"]
    assert set(value["rows"][0]) == set(small["rows"][0])
    plain = build({"prediction": "edm"}, "euler", 1).to_json()["rows"][0]
    assert set(plain) == {"sigma", "timestep", "c_in", "c_skip", "c_out", "guidance", "clip", "level", "after", "after_noise"}
    assert plain["clip"] is None
    assert type(value["init_scale"]) is float


def test_optional_members(small: dict[str, Any]) -> None:
    for name in ("sigma", "guidance", "clip", "before", "before_noise", "after_noise"):
        del small["rows"][0][name]
    del small["meta"]
    row = Program.from_json(small).rows[0]
    assert (row.guidance, row.clip, row.before, row.before_noise, row.after_noise) == (1.0, None, None, None, (0.0, 0.0))


def test_rows_and_programs_do_not_change(small: dict[str, Any]) -> None:
    program = Program.from_json(small)
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.slots = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.rows[0].c_in = 3.0  # type: ignore[misc]
    value = program.to_json()
    value["rows"][0]["after"][0][0] = 7.0
    value["meta"]["steps"] = 3
    assert program == Program.from_json(small)


def test_arrays_are_accepted_in_python() -> None:
    row = Row(timestep=np.float32(0.5), c_in=1, c_skip=0, c_out=1, after=np.array([[0.5, 0.5]]), after_noise=np.zeros(1))  # type: ignore[arg-type]
    assert row == Row(timestep=0.5, c_in=1.0, c_skip=0.0, c_out=1.0, after=((0.5, 0.5),))
    assert all(type(v) is float for v in (row.timestep, row.c_in, *row.after[0]))


def test_counts(small: dict[str, Any]) -> None:
    program = Program.from_json(small)
    assert (program.nfe, program.weights, program.sample_evaluations) == (2, (1.5, 1.5), 4)
    assert program.with_guidance(1).sample_evaluations == 2
    assert program.with_guidance(1).weights == (1.0, 1.0)
    half = dataclasses.replace(program, rows=(program.rows[0], dataclasses.replace(program.rows[1], guidance=0.0)))
    assert (half.weights, half.sample_evaluations) == ((1.5, 1.0), 3)


def test_with_guidance_changes_nothing_else(small: dict[str, Any]) -> None:
    program = Program.from_json(small)
    other = program.with_guidance(4.0)
    assert (other.guidance_scale, program.guidance_scale) == (4.0, 1.5)
    assert dataclasses.replace(other, guidance_scale=1.5) == program
    with pytest.raises(ProgramError, match="guidance_scale must be a finite number"):
        program.with_guidance(math.nan)


def test_table(small: dict[str, Any]) -> None:
    lines = format_table(Program.from_json(small)).splitlines()
    assert lines[0] == "small: 2 evaluations (2 guided at scale 1.5), 2 slots, s0 = 2 latents"
    assert lines[1].split()[:7] == ["row", "sigma", "timestep", "c_in", "c_skip", "c_out", "w"]
    assert lines[2].split()[:7] == ["0", "2", "0.25", "0.5", "0.1", "0.9", "1.5"]
    assert lines[2].endswith("-1 … 1     before: s0 = s0 + 0.5 eps; s0 = 0.5 s0 + 0.5 D + 0.1 eps, s1 = D")
    long = format_table(build({"prediction": "edm"}, "euler", 1000)).splitlines()
    assert len(long) == 43
    assert "960 more rows" in long[22]
    assert long[-1].split()[0] == "999"


def test_program_without_rows(small: dict[str, Any]) -> None:
    """A one-shot generator: latents into the decoder."""
    value = small | {"rows": [], "slots": 1, "name": "gan"}
    program = Program.from_json(value)
    assert (program.nfe, program.sample_evaluations) == (0, 0)
    assert (
        format_table(program)
        == "gan: 0 evaluations (0 guided at scale 1.5), 1 slot, s0 = 2 latents; no rows: the decoder makes the image"
    )
