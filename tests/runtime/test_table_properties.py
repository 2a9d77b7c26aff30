"""Any table: the native executor against the NumPy one, and the native reader against the Python one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aigc_edge import ops
from aigc_edge.diffusion import Program, build, reference
from aigc_edge.errors import AigcEdgeError

FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
COUNT = 3


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A program of 1 … 8 slots whose rows have any of the optional parts, of numbers that neither grow nor vanish."""
    rng = np.random.default_rng(draw(st.integers(0, 2**63)))
    slots = draw(st.integers(1, 8))

    def numbers(*shape: int, scale: float = 1.0) -> Any:
        values = scale * rng.normal(size=shape)
        values[rng.random(shape) < 0.3] = rng.choice([0.0, 1.0, -1.0])
        return values.tolist()

    def row() -> dict[str, Any]:
        made = {"sigma": abs(rng.normal()), "timestep": rng.normal(), "c_in": rng.normal(), "c_skip": rng.normal(),
                "c_out": rng.normal(), "guidance": draw(st.sampled_from([0.0, 1.0, 0.3])),
                "after": numbers(slots, slots + 1, scale=1 / (slots + 1))}  # fmt: skip
        low, high = np.sort(rng.normal(size=2)).tolist()
        parts = {"clip": [low, high + 0.1], "before": numbers(slots, slots, scale=1 / slots), "before_noise": numbers(slots),
                 "after_noise": numbers(slots), "after_output": numbers(slots, scale=0.5), "level": [0.5, abs(rng.normal())],
             "threshold": [draw(st.sampled_from([0.0, 0.4, 0.995, 1.0])), 1 + abs(rng.normal())]}  # fmt: skip
        chosen = {name: value for name, value in parts.items() if draw(st.booleans())}
        if "clip" in chosen:
            chosen.pop("threshold", None)
        return made | chosen

    rows = [row() for _ in range(draw(st.integers(1, 5)))]
    return {"version": 1, "name": "any", "slots": slots, "init_scale": rng.normal(),
            "guidance_scale": draw(st.sampled_from([1.0, 2.5, -1.0])),
            "guidance_rescale": draw(st.sampled_from([0.0, 0.7])), "rows": rows, "meta": {"steps": len(rows)}}  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=FIXTURES)
@given(tables())
def test_native_rows_equal_numpy_rows(pipeline: Any, toy: SimpleNamespace, table: dict[str, Any]) -> None:
    """Within twice the error that NumPy makes in float32."""
    program = Program.from_json(table)
    pipeline.add_program(program)
    seeds, classes = np.arange(5, 5 + COUNT, dtype=np.uint64), [0, 3, 1]
    native = pipeline.sample(COUNT, seeds=seeds, classes=classes, program="any", output="float32")

    def expected(dtype: Any) -> np.ndarray:
        latents = np.empty((COUNT, int(np.prod(toy.SHAPE))), dtype)
        ops.randn.reference(seeds, 0, latents)
        given = {"seeds": seeds, "classes": classes, "null_class": toy.CLASSES, "dtype": dtype}
        return reference.run(program, toy.denoiser, latents.reshape(-1, *toy.SHAPE), **given)

    exact, plain = expected(np.float64), expected(np.float32)
    floor = 16 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(native - exact).max() <= 2 * np.abs(plain - exact).max() + floor


@pytest.fixture
def pipeline(open_toy: Any) -> Any:
    return open_toy()


@settings(deadline=None, max_examples=150, suppress_health_check=FIXTURES)
@given(st.floats(-3.4028234e38, 3.4028234e38, allow_nan=False) | st.floats(-1e-37, 1e-37) | st.floats(0.1, 10))
def test_native_coefficients_are_the_json_s_bit_for_bit(pipeline: Any, toy: SimpleNamespace, value: float) -> None:
    """From ones, one row that leaves value · slot_0: the nearest float32 of the double that Python wrote, subnormals too."""
    row = {"timestep": 0.0, "c_in": 0.0, "c_skip": 0.0, "c_out": 0.0, "after": [[value, 0.0]]}
    table = {"version": 1, "name": "one", "slots": 1, "init_scale": 1.0, "guidance_scale": 1.0, "rows": [row]}
    pipeline.add_program(Program.from_json(table))
    out = pipeline.sample(1, latents=np.ones((1, *toy.SHAPE), np.float32), classes=0, program="one", output="float32")
    assert (out == np.float32(value)).all()


# 1.0 is a whole number to the native reader, as JSON has it, and none to Python's.
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda v: not v.is_integer())
JSON = st.recursive(
    st.none() | st.booleans() | FRACTIONS | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def changed(draw: Any, table: dict[str, Any]) -> dict[str, Any]:
    """One value anywhere replaced, removed, repeated or added."""
    place: Any = table
    while True:
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.booleans()):
            break
        place = place[key]
    how = draw(st.sampled_from(["replace", "remove", "repeat", "add"]))
    if how == "remove":
        del place[key]
    elif how == "repeat" and isinstance(place, list):
        place.insert(key, place[key])
    elif how == "add" and isinstance(place, dict):
        place[draw(st.text(max_size=3))] = draw(JSON)
    else:
        place[key] = draw(JSON)
    return table


def refusal(read: Callable[[], object]) -> str | None:
    try:
        read()
    except AigcEdgeError as error:
        return str(error) or "nothing"
    return None


@settings(deadline=None, max_examples=300, suppress_health_check=FIXTURES)
@given(tables(), st.data())
def test_both_readers_take_the_same_tables(pipeline: Any, table: dict[str, Any], data: st.DataObject) -> None:
    """Or refuse them in one sentence; this bundle has no decoder, so a table without rows does not fit it."""
    table = changed(data.draw, table)
    python = refusal(lambda: Program.from_json(copy.deepcopy(table)))
    native = refusal(lambda: pipeline._handle.add_program(json.dumps(table)))
    assert (python is None) == (native is None) or "must have a decoder" in str(native), (python, native)
    assert all("\n" not in text and len(text) < 600 for text in (python or "", native or ""))


def test_limits_are_the_same_in_both_readers(pipeline: Any) -> None:
    rows = [{"timestep": 0.0, "c_in": 1.0, "c_skip": 1.0, "c_out": 1.0, "after": [[1.0, 0.0]]}]
    whole = {"version": 1, "name": "x", "slots": 1, "init_scale": 1.0, "guidance_scale": 1.0, "rows": rows, "meta": {}}
    taken = [{}, {"rows": rows * 10_000}, {"meta": {"deep": [[[]]]}}, {"rows": [rows[0] | {"clip": [1.0, 1.0 + 2**-23]}]}]
    refused = [
        {"rows": rows * 10_001}, {"rows": [rows[0] | {"clip": [1.0, 1.0 + 1e-9]}]}, {"rows": [rows[0] | {"sigma": "1"}]},
        {"rows": [rows[0] | {"guidance": 1.0001}]}, {"rows": [rows[0] | {"c_in": 3.5e38}]}, {"name": ""}, {"meta": []},
        {"slots": 9}, {"slots": 0}, {"slots": 1.5}, {"slots": True}, {"version": 2}, {"version": 0},
        {"version": 1.5}, {"extra": 1}, {"a\n" * 500: 1}, {"xé" * 500: 1}, {"guidance_scale": None}, {"init_scale": "1"},
    ]  # fmt: skip
    for change in taken + refused:
        python = refusal(lambda change=change: Program.from_json(whole | change))
        native = refusal(lambda change=change: pipeline._handle.add_program(json.dumps(whole | change)))
        assert [python is None, native is None] == [change in taken] * 2, (str(change)[:200], python, native)
        assert all("\n" not in text and len(text) < 600 for text in (python or "", native or ""))


@settings(deadline=None, max_examples=300, suppress_health_check=FIXTURES)
@given(st.data())
def test_damaged_text_is_a_sentence(pipeline: Any, data: st.DataObject) -> None:
    """Cut, with characters changed, put in, or taken out: a program or an AigcEdgeError, and the handle works on."""
    text = json.dumps(build({"prediction": "edm"}, "heun", 2).to_json() | {"name": "damaged"})
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(text) - 1, 0)))
        piece = data.draw(
            st.text(max_size=2) | st.sampled_from(['"', "{", "}", "[", "]", ",", ":", "1e999", "-", "\\u12", "NaN"])
        )
        text = text[:place] + piece + text[place + data.draw(st.integers(0, 3)) :]
        if data.draw(st.integers(0, 3)) == 0:
            text = text[: data.draw(st.integers(0, len(text)))]
    assert refusal(lambda: pipeline._handle.add_program(text)) != ""
    assert np.isfinite(pipeline.sample(1, program="euler_ancestral-6")).all()
