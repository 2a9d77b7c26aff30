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

from aigc_edge.diffusion import Program, Row, build
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
    assert str(program).count("\n") == (program.nfe + 1 if program.rows else 0) + program.name.count("\n")


def small() -> dict[str, Any]:
    """A valid program of two slots and two rows, as JSON."""
    row = {
        "sigma": 2.0,
        "timestep": 0.25,
        "c_in": 0.5,
        "c_skip": 0.1,
        "c_out": 0.9,
        "guidance": 1.0,
        "clip": [-1, 1],
        "before": [[1, 0], [0, 1]],
        "before_noise": [0.5, 0],
        "after": [[0.5, 0, 0.5], [0, 0, 1]],
        "after_noise": [0.1, 0],
    }
    return {
        "version": 1,
        "name": "small",
        "slots": 2,
        "init_scale": 2,
        "guidance_scale": 1.5,
        "rows": [row, copy.deepcopy(row)],
        "meta": {"solver": "mine", "steps": 2},
    }


def test_json_has_exactly_the_members_of_the_contract() -> None:
    value = Program.from_json(small()).to_json()
    assert list(value) == ["version", "name", "slots", "init_scale", "guidance_scale", "rows", "meta"]
    assert set(value["rows"][0]) == set(small()["rows"][0])
    plain = build({"prediction": "edm"}, "euler", 1).to_json()["rows"][0]
    assert set(plain) == {"sigma", "timestep", "c_in", "c_skip", "c_out", "guidance", "clip", "after", "after_noise"}
    assert plain["clip"] is None
    assert type(value["init_scale"]) is float


def test_optional_members() -> None:
    value = small()
    for name in ("sigma", "guidance", "clip", "before", "before_noise", "after_noise"):
        del value["rows"][0][name]
    del value["meta"]
    row = Program.from_json(value).rows[0]
    assert (row.guidance, row.clip, row.before, row.before_noise, row.after_noise) == (1.0, None, None, None, (0.0, 0.0))


NAN, INF = float("nan"), float("inf")
MALFORMED: list[tuple[str, list[Any], Any, str]] = [
    ("version", ["version"], 2, "the program is of version 2, this aigc-edge reads up to 1: update aigc-edge"),
    ("version zero", ["version"], 0, "the version of a program must be a whole number"),
    ("version text", ["version"], "1", "the version of a program must be a whole number"),
    ("slots 0", ["slots"], 0, "slots must be a whole number within 1 … 8, not 0"),
    ("slots 9", ["slots"], 9, "slots must be a whole number within 1 … 8, not 9"),
    ("slots float", ["slots"], 2.0, "slots must be a whole number"),
    ("slots bool", ["slots"], True, "slots must be a whole number"),
    ("slots other", ["slots"], 3, "row 0 works on 2 slots, the program has 3"),
    ("name", ["name"], "", "the name of a program must be text that is not empty"),
    ("name number", ["name"], 7, "the name of a program must be text"),
    ("init nan", ["init_scale"], NAN, "init_scale must be a finite number, not nan"),
    ("init text", ["init_scale"], "80", "init_scale must be a number"),
    ("scale inf", ["guidance_scale"], INF, "guidance_scale must be a finite number"),
    ("meta", ["meta"], [1], "meta must be a JSON object"),
    ("meta nan", ["meta", "steps"], NAN, "meta must hold JSON values only, not nan"),
    ("rows", ["rows"], {"0": 1}, "rows must be a list"),
    ("rows many", ["rows"], [{}] * 10_001, "at most 10000 rows, not 10001"),
    ("row text", ["rows", 1], "row", "row 1: a row must be a JSON object, not 'row'"),
    ("row unknown", ["rows", 1, "gidance"], 1, "row 1: a row has an unknown member 'gidance': allowed are timestep, c_in"),
    ("unknown", ["solver"], "heun", "a program has an unknown member 'solver': allowed are version, name"),
    ("timestep", ["rows", 1, "timestep"], NAN, "row 1: timestep must be a finite number, not nan"),
    ("c_in", ["rows", 0, "c_in"], None, "row 0: c_in must be a number, not None"),
    ("c_out", ["rows", 0, "c_out"], -INF, "row 0: c_out must be a finite number"),
    ("c_skip", ["rows", 0, "c_skip"], 1e39, "row 0: c_skip must fit float32"),
    ("c_skip int", ["rows", 0, "c_skip"], 10**400, "row 0: c_skip must be a finite number"),
    ("sigma", ["rows", 0, "sigma"], [1], "row 0: sigma must be a number"),
    ("guidance", ["rows", 1, "guidance"], 1.01, "row 1: guidance must be within 0 … 1, not 1.01"),
    ("guidance below", ["rows", 1, "guidance"], -0.01, "row 1: guidance must be within 0 … 1"),
    ("guidance nan", ["rows", 1, "guidance"], NAN, "row 1: guidance must be a finite number"),
    ("clip order", ["rows", 0, "clip"], [1, -1], "row 0: clip must be .low, high. with low < high"),
    ("clip equal", ["rows", 0, "clip"], [0.5, 0.5], "row 0: clip must be"),
    ("clip float32", ["rows", 0, "clip"], [1.0, 1.0 + 1e-9], "low < high in float32"),
    ("clip nan", ["rows", 0, "clip"], [NAN, 1], "row 0: clip must be a finite number"),
    ("clip size", ["rows", 0, "clip"], [1], "row 0: clip must hold 2 numbers, it holds 1"),
    ("clip number", ["rows", 0, "clip"], 1, "row 0: clip must be a list of numbers"),
    ("after rows", ["rows", 0, "after"], [[1, 0, 0]], "row 0: after must"),
    ("after columns", ["rows", 0, "after"], [[1, 0], [0, 1]], "row 0: after must hold 3 numbers, it holds 2"),
    ("after none", ["rows", 0, "after"], [], "row 0: after must be 1 … 8 lists of numbers"),
    ("after nine", ["rows", 0, "after"], [[0.0] * 10] * 9, "row 0: after must be 1 … 8 lists"),
    ("after flat", ["rows", 0, "after"], [1, 2], "row 0: after must be a list of numbers"),
    ("after inf", ["rows", 0, "after", 1, 2], INF, "row 0: after must be a finite number"),
    ("after bool", ["rows", 0, "after", 1, 2], True, "row 0: after must be a number, not True"),
    ("after text", ["rows", 0, "after"], "1", "row 0: after must be 1 … 8 lists"),
    ("after_noise", ["rows", 0, "after_noise"], [1], "row 0: after_noise must hold 2 numbers"),
    ("before", ["rows", 0, "before"], [[1, 0, 0], [0, 1, 0]], "row 0: before must hold 2 numbers, it holds 3"),
    ("before rows", ["rows", 0, "before"], [[1, 0]], "row 0: before must be 2 lists of 2 numbers, not 1 of them"),
    ("before nan", ["rows", 0, "before", 0, 0], NAN, "row 0: before must be a finite number"),
    ("before_noise", ["rows", 0, "before_noise"], [1, 2, 3], "row 0: before_noise must hold 2 numbers"),
]


@pytest.mark.parametrize(("where", "value", "words"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed_programs_are_refused_with_a_reason(where: list[Any], value: Any, words: str) -> None:
    whole = small()
    place: Any = whole
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(ProgramError, match=words) as caught:
        Program.from_json(whole)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["version", "name", "slots", "init_scale", "guidance_scale", "rows"])
def test_missing_member(name: str) -> None:
    value = small()
    del value[name]
    with pytest.raises(ProgramError, match=f"a program lacks {name}"):
        Program.from_json(value)


@pytest.mark.parametrize("name", ["timestep", "c_in", "c_skip", "c_out", "after"])
def test_missing_member_of_a_row(name: str) -> None:
    value = small()
    del value["rows"][1][name]
    with pytest.raises(ProgramError, match=f"row 1: a row lacks {name}"):
        Program.from_json(value)


@pytest.mark.parametrize("value", [None, [], "program", 3])
def test_not_an_object(value: Any) -> None:
    with pytest.raises(ProgramError, match="a program must be a JSON object"):
        Program.from_json(value)


def test_meta_too_deep() -> None:
    value = small()
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    value["meta"] = {"deep": deep}
    with pytest.raises(ProgramError, match="meta is nested more than 32 deep"):
        Program.from_json(value)


@settings(deadline=None, max_examples=200)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda x: st.lists(x, max_size=3)), st.data())
def test_any_replaced_value_is_taken_or_refused_never_worse(value: Any, data: st.DataObject) -> None:
    """Whatever stands in place of any member: a program, or one sentence."""
    whole = small()
    place: Any = whole
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        program = Program.from_json(whole)
    except ProgramError:
        return
    assert Program.from_json(program.to_json()) == program


def test_rows_and_programs_do_not_change() -> None:
    program = Program.from_json(small())
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.slots = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.rows[0].c_in = 3.0  # type: ignore[misc]
    value = program.to_json()
    value["rows"][0]["after"][0][0] = 7.0
    value["meta"]["steps"] = 3
    assert program == Program.from_json(small())


def test_arrays_are_accepted_in_python() -> None:
    row = Row(timestep=np.float32(0.5), c_in=1, c_skip=0, c_out=1, after=np.array([[0.5, 0.5]]), after_noise=np.zeros(1))  # type: ignore[arg-type]
    assert row == Row(timestep=0.5, c_in=1.0, c_skip=0.0, c_out=1.0, after=((0.5, 0.5),))
    assert all(type(v) is float for v in (row.timestep, row.c_in, *row.after[0]))


def test_counts() -> None:
    program = Program.from_json(small())
    assert (program.nfe, program.weights, program.sample_evaluations) == (2, (1.5, 1.5), 4)
    assert program.with_guidance(1).sample_evaluations == 2
    assert program.with_guidance(1).weights == (1.0, 1.0)
    half = dataclasses.replace(program, rows=(program.rows[0], dataclasses.replace(program.rows[1], guidance=0.0)))
    assert (half.weights, half.sample_evaluations) == ((1.5, 1.0), 3)
    # two slots, then input and output of both halves of the doubled batch, float32
    assert program.state_bytes(elements=256, batch=3) == 3 * 256 * 4 * (2 + 2 + 2)
    assert program.with_guidance(1).state_bytes(elements=256, batch=3) == 3 * 256 * 4 * (2 + 1 + 1)


def test_with_guidance_changes_nothing_else() -> None:
    program = Program.from_json(small())
    other = program.with_guidance(4.0)
    assert (other.guidance_scale, program.guidance_scale) == (4.0, 1.5)
    assert dataclasses.replace(other, guidance_scale=1.5) == program
    with pytest.raises(ProgramError, match="guidance_scale must be a finite number"):
        program.with_guidance(math.nan)


def test_table() -> None:
    lines = str(Program.from_json(small())).splitlines()
    assert lines[0] == "small: 2 evaluations (2 guided at scale 1.5), 2 slots, s0 = 2 latents"
    assert lines[1].split()[:7] == ["row", "sigma", "timestep", "c_in", "c_skip", "c_out", "w"]
    assert lines[2].split()[:7] == ["0", "2", "0.25", "0.5", "0.1", "0.9", "1.5"]
    assert lines[2].endswith("-1 … 1     before: s0 = s0 + 0.5 eps; s0 = 0.5 s0 + 0.5 D + 0.1 eps, s1 = D")
    long = str(build({"prediction": "edm"}, "euler", 1000)).splitlines()
    assert len(long) == 43
    assert "960 more rows" in long[22]
    assert long[-1].split()[0] == "999"


def test_program_without_rows() -> None:
    """A one-shot generator: latents into the decoder."""
    value = small() | {"rows": [], "slots": 1, "name": "gan"}
    program = Program.from_json(value)
    assert (program.nfe, program.sample_evaluations) == (0, 0)
    assert (
        str(program) == "gan: 0 evaluations (0 guided at scale 1.5), 1 slot, s0 = 2 latents; no rows: the decoder makes the image"
    )
