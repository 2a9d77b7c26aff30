"""The NumPy executor with conditions and with guidance as a number, against the same arithmetic written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

SHAPE = (3, 2, 4, 4)


def network(sample: np.ndarray, timestep: np.ndarray, labels: Any, *, text: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Depends on both conditions, each sample on its own."""
    assert len(sample) == len(timestep) == len(text) == len(pooled)
    shift = np.sin(text).sum(axis=(1, 2)) + 0.3 * pooled[:, 0] + (0 if labels is None else 0.2 * labels)
    return np.tanh(sample) * 0.4 + 0.1 * shift[:, None, None, None]


def conditions(rng: np.random.Generator, n: int = 3) -> dict[str, np.ndarray]:
    return {"text": rng.normal(size=(n, 5, 2)), "pooled": rng.normal(size=(n, 1))}


def euler(latents: np.ndarray, program: Program, evaluate: Any) -> np.ndarray:
    """Rows of one slot by hand."""
    x = latents * program.init_scale
    for row, weight in zip(program.rows, program.weights, strict=True):
        f = evaluate(row.c_in * x, row.timestep, weight)
        x = row.after[0][0] * x + row.after[0][1] * (row.c_skip * x + row.c_out * f)
    return x


def test_guided_rows_take_both_conditions() -> None:
    rng = np.random.default_rng()
    program = build({"prediction": "flow"}, "euler", 4, guidance_scale=2.5)
    latents, own, other = rng.normal(size=SHAPE), conditions(rng), conditions(rng)

    def evaluate(sample: np.ndarray, time: float, weight: float) -> np.ndarray:
        times = np.full(len(sample), time)
        towards, away = (network(sample, times, None, **given) for given in (own, other))
        return away + weight * (towards - away)

    found = run(program, network, latents, conditions=own, negative_conditions=other)
    np.testing.assert_allclose(found, euler(latents, program, evaluate), rtol=1e-12)
    plain = run(program, network, latents, conditions=own, guidance_scale=1.0)  # then none to lead away from is needed
    assert np.abs(plain - found).max() > 1e-3


def test_one_condition_stands_for_all_and_classes_go_beside() -> None:
    rng = np.random.default_rng()
    program = build({"prediction": "flow"}, "heun", 3, guidance_scale=2.0)
    latents, own, other = rng.normal(size=SHAPE), conditions(rng, 1), conditions(rng, 1)
    repeated = [{name: np.repeat(value, 3, axis=0) for name, value in given.items()} for given in (own, other)]
    options: dict[str, Any] = {"classes": np.array([1, 2, 0]), "null_class": 3}
    found = run(program, network, latents, conditions=own, negative_conditions=other, **options)
    wanted = run(program, network, latents, conditions=repeated[0], negative_conditions=repeated[1], **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_guidance_as_a_number_is_the_row_s_weight_and_doubles_nothing() -> None:
    rng = np.random.default_rng()
    value = build({"prediction": "flow"}, "euler", 4, guidance_scale=3.5).to_json()
    for index, row in enumerate(value["rows"]):
        row["guidance"] = float(index % 2)
    program, latents, seen = Program.from_json(value), rng.normal(size=SHAPE), []

    def embedded(sample: np.ndarray, timestep: np.ndarray, labels: Any, *, scale: np.ndarray, text: np.ndarray) -> np.ndarray:
        seen.append((len(sample), scale.tolist()))
        return np.tanh(sample) * (1 + 0.1 * scale[:, None, None, None]) + text[:, :, None, None]

    text = rng.normal(size=(3, 2))
    found = run(program, embedded, latents, conditions={"text": text}, guidance_input="scale")
    assert seen == [(3, [1.0] * 3), (3, [3.5] * 3), (3, [1.0] * 3), (3, [3.5] * 3)]

    def evaluate(sample: np.ndarray, time: float, weight: float) -> np.ndarray:
        return embedded(sample, np.full(3, time), None, scale=np.full(3, weight), text=text)

    np.testing.assert_allclose(found, euler(latents, program, evaluate), rtol=1e-12)


def test_what_does_not_fit_is_said() -> None:
    rng = np.random.default_rng()
    program, latents = build({"prediction": "flow"}, "euler", 2, guidance_scale=2.0), rng.normal(size=SHAPE)
    own = conditions(rng)
    with pytest.raises(ProgramError, match=r"negative conditions of the same names: \['pooled', 'text'\] and \[\] were given"):
        run(program, network, latents, conditions=own)
    with pytest.raises(ProgramError, match="same names"):
        run(program, network, latents, conditions=own, negative_conditions={"text": own["text"]})
    with pytest.raises(ProgramError, match=r"'text' has the shape \[2, 5, 2\]: its first size must be 3 or 1"):
        run(program, network, latents, conditions=own | {"text": own["text"][:2]}, negative_conditions=own)
    with pytest.raises(ProgramError, match="guidance needs a class for each sample and the null class"):
        run(program, network, latents, conditions=own, negative_conditions=own, classes=np.zeros(3))
