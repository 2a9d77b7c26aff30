"""Programs that are none: refused with one sentence that says where and why."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigc_edge.diffusion import Program
from aigc_edge.errors import ProgramError

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
def test_malformed_programs_are_refused_with_a_reason(where: list[Any], value: Any, words: str, small: dict[str, Any]) -> None:
    place: Any = small
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    with pytest.raises(ProgramError, match=words) as caught:
        Program.from_json(small)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["version", "name", "slots", "init_scale", "guidance_scale", "rows"])
def test_missing_member(name: str, small: dict[str, Any]) -> None:
    del small[name]
    with pytest.raises(ProgramError, match=f"a program lacks {name}"):
        Program.from_json(small)


@pytest.mark.parametrize("name", ["timestep", "c_in", "c_skip", "c_out", "after"])
def test_missing_member_of_a_row(name: str, small: dict[str, Any]) -> None:
    del small["rows"][1][name]
    with pytest.raises(ProgramError, match=f"row 1: a row lacks {name}"):
        Program.from_json(small)


@pytest.mark.parametrize("value", [None, [], "program", 3])
def test_not_an_object(value: Any) -> None:
    with pytest.raises(ProgramError, match="a program must be a JSON object"):
        Program.from_json(value)


def test_meta_too_deep(small: dict[str, Any]) -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    small["meta"] = {"deep": deep}
    with pytest.raises(ProgramError, match="meta is nested more than 32 deep"):
        Program.from_json(small)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda x: st.lists(x, max_size=3)), st.data())
def test_any_replaced_value_is_taken_or_refused_never_worse(small: dict[str, Any], value: Any, data: st.DataObject) -> None:
    """Whatever stands in place of any member: a program, or one sentence."""
    whole = copy.deepcopy(small)
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
