"""`_core.Rows`: what it takes and refuses. What it computes is tested by its users (test_execution.py, tests/runtime)."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.errors import AigcEdgeError

core = pytest.importorskip("aigc_edge._core")
N, E = 3, 10


def program(solver: str = "euler_ancestral", **options: Any) -> Program:
    return build({"prediction": "edm"}, solver, 4, guidance_scale=2.0, guidance_interval=(0.1, 50.0), **options)


def buffers(slots: int = 1, halves: int = 2, dtype: str = "float32") -> dict[str, np.ndarray]:
    normal = np.random.default_rng().normal(size=(slots, N, E)).astype(np.float32)
    return {
        "slots": normal,
        "net_input": np.zeros((halves, N, E), dtype),
        "seeds": np.arange(N, dtype=np.uint64),
        "nonfinite": np.zeros(N, np.int32),
    }


def test_halves_are_those_of_the_guidance_weights() -> None:
    chosen = program()
    halves = core.Rows(chosen.to_json()).halves
    assert halves == [1 if weight == 1.0 else 2 for weight in chosen.weights]
    assert set(halves) == {1, 2}
    assert set(core.Rows(chosen.with_guidance(1.0).to_json()).halves) == {1}


def test_rows_keep_their_buffers_and_noise() -> None:
    chosen, given = program(), buffers()
    noise = np.random.default_rng().normal(size=(len(chosen.draws), N, E)).astype(np.float32)
    start, slots = given["slots"].copy(), given["slots"]
    rows, results = core.Rows(chosen.to_json()), []
    for _ in range(2):
        slots[...] = start
        rows.bind(**given)
        assert rows.noise is None  # that of other buffers
        rows.noise = noise.copy()
        copies = {name: value.copy() for name, value in given.items()} | {"slots": slots, "net_input": given["net_input"]}
        rows.bind(**copies)
        rows.noise = noise.copy()
        del copies
        gc.collect()
        rows.run(0)
        for row, halves in enumerate(rows.halves):
            rows.run(row + 1, np.tanh(given["net_input"][:halves]))
        results.append(slots.copy())
    np.testing.assert_array_equal(*results)
    rows.noise = None
    assert rows.noise is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": np.zeros((2, N, E), np.float32)}, r"slots has the shape \[2, 3, 10\]: .*S = 1, as in the program"),
        ({"slots": np.zeros((1, N, E))}, "slots is float64"),
        ({"net_input": np.zeros((1, N, E), np.float32)}, r"net_input has the shape .* K = 2, as in the program"),
        ({"net_input": np.zeros((2, N, E), np.int32)}, "net_input is int32: float32, float16 or bfloat16"),
        ({"net_input": np.zeros((2, N, 2 * E), np.float32)[:, :, ::2]}, "net_input is not contiguous"),
        ({"seeds": np.zeros(N - 1, np.uint64)}, "seeds has the shape"),
        ({"nonfinite": None}, "nonfinite must be a tensor"),
        ({"mask": np.zeros((N, E + 1), np.float32)}, "mask has the shape"),
        ({"known": np.zeros((N, E), np.float16)}, "known is float16"),
    ],
)
def test_buffers_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcEdgeError, match=message):
        core.Rows(program().to_json()).bind(**buffers() | change)


def test_a_mask_needs_levels_and_what_is_known() -> None:
    chosen, plane = program(), np.zeros((N, E), np.float32)
    value = chosen.to_json()
    del value["rows"][2]["level"]
    with pytest.raises(AigcEdgeError, match="does not say the noise levels of its rows, which a mask needs"):
        core.Rows(value).bind(**buffers(), mask=plane, known=plane)
    rows = core.Rows(chosen.to_json())
    rows.bind(**buffers(), mask=plane)
    with pytest.raises(AigcEdgeError, match="mask and known must both be given"):
        rows.run(0)


def test_steps_and_outputs_that_do_not_fit_are_refused() -> None:
    rows, output = core.Rows(program().to_json()), np.zeros((2, N, E), np.float32)
    for call in (lambda: rows.run(0), lambda: setattr(rows, "noise", None)):
        with pytest.raises(AigcEdgeError, match="no buffers: call bind first"):
            call()
    rows.bind(**buffers())
    for arguments, message in (
        ((5, output), "step 5 does not exist: 0 to 4 do"),
        ((-1,), "step -1 does not exist"),
        ((0, output), "step 0 ends no row: leave the output out"),
        ((2,), "step 2 needs the network's output of row 1"),
        ((1 + rows.halves.index(1), output), "output has the shape .* G = 1, as in the program"),
        ((1 + rows.halves.index(2), output[:, :2]), "output has the shape .* N = 3, as in slots"),
        ((1 + rows.halves.index(2), output.astype(np.float64)), "output is float64"),
    ):
        with pytest.raises(AigcEdgeError, match=message):
            rows.run(*arguments)
    with pytest.raises(AigcEdgeError, match=r"noise has the shape .* as in the program"):
        rows.noise = output


def test_a_program_that_is_wrong_is_refused_with_its_path() -> None:
    value = program().to_json()
    value["rows"][1]["after"][0][1] = "much"
    with pytest.raises(AigcEdgeError, match=r"program.rows\[1\].after\[0\]\[1\] must be a number"):
        core.Rows(value)
    with pytest.raises(AigcEdgeError, match=r"program\.rows must be present"):
        core.Rows({"version": 1, "name": "x", "slots": 1, "init_scale": 1.0, "guidance_scale": 1.0})
    with pytest.raises(AigcEdgeError, match=r"the program holds a numpy\.ndarray, which JSON does not have"):
        core.Rows(program().to_json() | {"rows": np.zeros(3)})
    circle: dict[str, Any] = {}
    circle["meta"] = circle
    with pytest.raises(AigcEdgeError, match="the program holds a dict"):
        core.Rows(circle)
