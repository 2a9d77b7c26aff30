"""Calibration with conditions: every record holds what the runtime would feed, guided both ways or told the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.diffusion import Program, build
from aigc_edge.errors import AigcEdgeError

SHAPE = (2, 4, 4)
PROGRAM = build({"prediction": "flow"}, "heun", 3, guidance_scale=2.5)


def spec(*more: TensorSpec) -> ComponentSpec:
    inputs = TensorSpec("x", "sample", "float32", (BATCH, *SHAPE)), TensorSpec("t", "timestep", "float32", (BATCH,))
    text = TensorSpec("text", "condition", "float32", (BATCH, 5, 3))
    return ComponentSpec("denoiser", (*inputs, text, *more), (TensorSpec("y", "sample", "float32", (BATCH, *SHAPE)),))


def network(inputs: dict[str, Any]) -> list[np.ndarray]:
    shift = np.sin(inputs["text"]).sum(axis=(1, 2)) + inputs.get("scale", np.zeros(len(inputs["x"])))
    return [(np.tanh(inputs["x"]) + 0.1 * shift[:, None, None, None]).astype(np.float32)]


def draw(n: int, *more: TensorSpec, **options: Any) -> Calibration:
    return Calibration.draw(spec(*more), PROGRAM, n, **options)


def test_records_hold_both_conditions() -> None:
    rng = np.random.default_rng()
    own, other = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    records: list[Record] = []
    made = draw(4, conditions={"text": own}, negative={"text": other}).run(network, records)
    assert np.isfinite(made).all()
    assert len(records) == len(PROGRAM.rows)
    for record in records:
        assert record.inputs["text"].dtype == np.float32
        np.testing.assert_array_equal(record.inputs["text"], np.concatenate([own, other]))
        np.testing.assert_array_equal(record.inputs["x"][:4], record.inputs["x"][4:])


def test_guidance_as_a_number_is_recorded_and_doubles_nothing() -> None:
    rng = np.random.default_rng()
    own, scale = rng.normal(size=(3, 5, 3)), TensorSpec("scale", "guidance", "float32", (BATCH,))
    records: list[Record] = []
    draw(3, scale, conditions={"text": own}).run(network, records)
    for record in records:
        assert record.inputs["x"].shape == (3, *SHAPE)
        np.testing.assert_array_equal(record.inputs["scale"], np.full(3, 2.5, np.float32))


def test_few_conditions_are_taken_in_turn_and_split_with_their_samples() -> None:
    rng = np.random.default_rng()
    own, other = rng.normal(size=(2, 5, 3)).astype(np.float32), rng.normal(size=(1, 5, 3)).astype(np.float32)
    whole = draw(5, conditions={"text": own}, negative={"text": other})
    assert whole.conditions is not None
    np.testing.assert_array_equal(whole.conditions["text"], own[[0, 1, 0, 1, 0]])
    parts = whole.split(2)
    made = whole.run(network)
    for part, slots in zip(parts, (slice(2), slice(2, None)), strict=True):
        assert part.negative is not None
        assert len(part.negative["text"]) == len(part.latents)
        np.testing.assert_allclose(part.run(network), made[slots], atol=1e-6)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(AigcEdgeError, match="input 'text' of 'denoiser' needs conditions of that name"):
        Calibration(spec(), PROGRAM.with_guidance(1.0), np.zeros((1, *SHAPE), np.float32)).run(network)
    with pytest.raises(AigcEdgeError, match=r"conditions 'text' have the shape \[0, 5, 3\]"):
        draw(2, conditions={"text": np.zeros((0, 5, 3))})


def test_equal_calibrations_have_one_fingerprint_and_others_another() -> None:
    rng = np.random.default_rng()
    own, other = rng.normal(size=(2, 3, 5, 3)).astype(np.float32)
    scale = TensorSpec("scale", "guidance", "float32", (BATCH,))

    def constants(factor: float) -> Any:
        return lambda timestep: {"k": np.full((1, 2), factor * timestep, np.float32)}

    made = [
        draw(3),
        draw(4),
        draw(3, scale),
        draw(3, seed=5),
        draw(3, num_classes=2),
        draw(3, conditions={"text": own}),
        draw(3, conditions={"text": other}),
        draw(3, conditions={"text": own}, negative={"text": other}),
        draw(3, constants=constants(1.0)),
        draw(3, constants=constants(2.0)),
        Calibration.draw(spec(), build({"prediction": "flow"}, "heun", 4), 3),
    ]
    found = [calibration.fingerprint() for calibration in made]
    assert len(set(found)) == len(found)
    assert found == [calibration.fingerprint() for calibration in made]
    assert draw(3, conditions={"text": own.copy()}).fingerprint() == found[5]


def labelled(inputs: SampleInputs, n: int = 4) -> Calibration:
    """A calibration of a decoder that takes a vector and a class."""
    tensors = TensorSpec("x", "sample", "float32", (BATCH, 3)), TensorSpec("y", "class", "int64", (BATCH,))
    decoder = ComponentSpec("decoder", tensors, (TensorSpec("z", "sample", "float32", (BATCH, 3, 1, 1)),))
    return Calibration.draw(decoder, Program("one", slots=1, init_scale=1.0, rows=()), n, num_classes=7, inputs=inputs)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_every_sample_keeps_its_own_label(dtype: Any) -> None:
    labels = np.random.default_rng().integers(0, 7, 20)
    arrays = {"x": np.repeat(labels[:, None], 3, axis=1).astype(np.float32), "y": labels.astype(dtype)}
    calibration = labelled(SampleInputs("arrays", arrays=arrays))
    for made in (calibration, calibration.with_new_noise(50, 1), calibration.with_new_noise(50, 2)):
        assert made.classes is not None
        assert made.classes.dtype == np.int64
        np.testing.assert_array_equal(made.latents[:, 0], made.classes)
    assert len(set(calibration.with_new_noise(50, 1).classes)) > 1  # type: ignore[arg-type]


def test_the_fingerprint_covers_all_inputs_that_training_draws_from() -> None:
    values, labels = np.random.default_rng().normal(size=(20, 3)).astype(np.float32), np.arange(20) % 7
    more, others, relabelled = values.copy(), values[:12], labels.copy()
    more[15] += 1  # none of the first four
    relabelled[15] = 6 - relabelled[15] // 2
    cases = [(values, labels), (more, labels), (others, labels[:12]), (values, relabelled)]
    found = [labelled(SampleInputs("arrays", arrays={"x": x, "y": y})).fingerprint() for x, y in cases]
    assert len(set(found)) == len(found)
    assert labelled(SampleInputs("arrays", arrays={"x": values.copy(), "y": labels})).fingerprint() == found[0]
