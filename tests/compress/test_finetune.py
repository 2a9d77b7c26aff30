"""Distillation along the trajectory: what is learned from, that it is learned, and how it ends."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.trainable.distillation import DistillationSet, distillation_set
from aigc_edge.compress.trainable.finetune import FineTuneSettings, finetune
from aigc_edge.errors import AigcEdgeError


def disturbed(model: onnx.ModelProto, rng: np.random.Generator, part: float) -> onnx.ModelProto:
    """`model` with noise on its weights, in proportion to them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim > 1 and value.dtype == np.float32:
            noisy = value + part * value.std() * rng.standard_normal(value.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
    return made


def test_the_distillation_set_is_the_trajectory_of_other_noise(families: dict[str, Any]) -> None:
    source, spec, program, classes = families["diffusion"]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes)
    data = distillation_set(graph.load(source), calibration, samples=6)
    assert data.size == 6 * 2 * len(program.rows), "every row, guided and not"
    assert {int(label) for label in data.inputs["class_labels"]} <= set(range(classes + 1))
    assert (data.inputs["class_labels"] == classes).sum() == data.size // 2
    network = graph.Network(source)
    chosen = np.random.default_rng(0).integers(0, data.size, 8)
    wanted = network({name: value[chosen] for name, value in data.inputs.items()})[0]
    np.testing.assert_allclose(data.teacher_outputs[chosen], wanted, rtol=1e-4, atol=1e-4)
    assert data.weights.min() > 0
    held, other = calibration.with_new_noise(4, 1), calibration.with_new_noise(4, 2)
    assert not np.intersect1d(held.latents, calibration.latents).size
    assert not np.intersect1d(held.latents, other.latents).size


@pytest.mark.parametrize("family", ["diffusion", "gan"])
def test_a_disturbed_network_learns(families: dict[str, Any], family: str, rng: np.random.Generator) -> None:
    """The error of final samples from noise that was not trained on falls."""
    source, spec, program, classes = families[family]
    original = graph.load(source)
    calibration = Calibration.draw(spec, program, 32, num_classes=classes, seed=int(rng.integers(2**31)))
    student = disturbed(original, rng, 0.05)
    wanted = calibration.run(graph.Network(original))

    def errors(model: onnx.ModelProto) -> np.ndarray:
        return np.square(calibration.run(graph.Network(model)) - wanted).mean(axis=(1, 2, 3))

    told: list[tuple[int, int]] = []
    data = distillation_set(original, calibration, samples=0 if family == "gan" else 24)
    made = finetune(student, data, FineTuneSettings(steps=80, rate=3e-3), progress=lambda *done: told.append(done))
    # The middle one of many samples: where a sample lands on another digit, its error alone is more than that of all others.
    assert np.median(errors(made.model) / errors(student)) < 1  # 0.05 to 0.45 over 60 draws
    assert made.last_loss < 0.6 * made.first_loss
    assert told == [(step, 80) for step in range(1, 81)]


def test_time_is_a_bound_and_an_interruption_ends_it(families: dict[str, Any]) -> None:
    source, spec, program, classes = families["gan"]
    original = graph.load(source)
    data = distillation_set(original, Calibration.draw(spec, program, 4, num_classes=classes), samples=32)
    started = time.monotonic()
    made = finetune(original, data, FineTuneSettings(steps=10**6, seconds=1.0))
    assert 0 < made.steps < 10**6
    assert time.monotonic() - started < 120

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(original, data, FineTuneSettings(steps=3), progress=stop)


def test_a_loss_that_is_not_finite_is_said(families: dict[str, Any]) -> None:
    source, spec, program, classes = families["gan"]
    original = graph.load(source)
    data = distillation_set(original, Calibration.draw(spec, program, 2, num_classes=classes), samples=8)
    broken = DistillationSet(data.inputs, data.teacher_outputs * np.inf, data.weights)
    with pytest.raises(AigcEdgeError, match="does not converge"):
        finetune(original, broken, FineTuneSettings(steps=100))
