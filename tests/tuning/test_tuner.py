"""From a network callable to a tuned program, with figures that can be checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import reference
from aigc_edge.errors import AigcEdgeError, ProgramError
from aigc_edge.metrics.paired import psnr
from aigc_edge.tuning.fit import FitSettings
from aigc_edge.tuning.tuner import NoiseSamples, Tuner, decibels

CLASSES = 3


def noise(rng: np.random.Generator, count: int, classes: bool = False) -> NoiseSamples:
    labels = rng.integers(0, CLASSES, count) if classes else None
    return NoiseSamples(rng.standard_normal((count, 6)).astype(np.float32), labels)


def test_any_network_on_any_schedule(schedule: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    """The figures in meta are those of the rows themselves, recomputed here in float64 from the same noise."""
    toy = tools.Toy(schedule, tools.two_points, 32)
    training, held = noise(rng, 48), noise(rng, 32)
    tuner = Tuner(toy, schedule, training, held, reference_steps=32)
    tuned = tuner.tune(3, settings=FitSettings(steps=6))
    many = np.clip(reference.run(tuner.reference, toy, held.latents), -1, 1)
    made = np.clip(reference.run(tuned.program, toy, held.latents), -1, 1)
    psnr = 10 * np.log10(4 / np.mean((made - many) ** 2))
    meta = tuned.program.meta
    assert meta["psnr"] == pytest.approx(psnr, abs=0.3)  # rounding of float32 counts at 50 dB
    best = np.clip(reference.run(tuned.best.program, toy, held.latents), -1, 1)
    assert meta["best_standard_psnr"] == pytest.approx(10 * np.log10(4 / np.mean((best - many) ** 2)), abs=0.3)
    assert meta["psnr"] > meta["best_standard_psnr"] + 3
    assert (meta["best_standard"], meta["n"], meta["trained_on"]) == (tuned.best.name, 32, 48)
    assert (meta["solver"], meta["steps"], meta["reference"]) == ("tuned", 3, "unipc-32")


def test_guided_evaluations_are_what_the_executor_makes(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points, 16)
    options = {"guidance_scale": 2.5, "null_class": CLASSES, "reference_steps": 16}
    tuner = Tuner(toy, edm, noise(rng, 16, True), noise(rng, 8, True), **options)
    table = tools.table(rng, toy.path, 3)
    from aigc_edge.tuning.conversion import to_program

    program = to_program(table, toy.path, "any", 2.5)
    part = next(tuner.train.batches())
    assert np.allclose(part.run(table)[1], tuner.sample(program, part), rtol=1e-3, atol=1e-3)


def test_a_table_is_gone_on_with(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points, 16)
    tuner = Tuner(toy, edm, noise(rng, 32), noise(rng, 16), reference_steps=16)
    first = tuner.tune(2, settings=FitSettings(steps=2))
    kept: list[float] = []
    second = tuner.tune(2, resume_from=first.table, on_improved=lambda table, psnr: kept.append(psnr), should_stop=lambda: True)
    assert np.array_equal(second.table.weights, first.table.weights)
    assert kept == [pytest.approx(decibels(tuner.validation.error(first.table), tuner.validation))]


@pytest.mark.parametrize("limits", [None, (-1.0, 1.0), (-0.5, 0.25)])
def test_decibels_are_those_of_the_quality_gate(
    edm: dict[str, Any], tools: Any, rng: np.random.Generator, limits: tuple[float, float] | None
) -> None:
    """With the range of the many-step samples themselves as the peak, which may be far from −1 … 1."""
    toy = tools.Toy(edm, tools.gaussian(np.array([0.01, 0.03])), 16)
    latents = [NoiseSamples(rng.standard_normal((24, 2)).astype(np.float32)) for _ in range(2)]
    tuner = Tuner(toy, edm, *latents, reference_steps=16, limits=limits)
    task = tuner.held_out
    for scale in (1.5, 0.9):
        result = (scale * task.target).astype(np.float32)
        error = float(np.square(task.residual(result), dtype=np.float64).mean())
        assert decibels(error, task) == pytest.approx(psnr(task.clamped(result), task.clamped(task.target)), abs=1e-4)
    flat = dataclasses.replace(task, target=np.zeros_like(task.target))
    assert (decibels(0.0, flat), decibels(1.0, flat)) == (np.inf, -np.inf)


def test_one_call_is_enough(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.gaussian(np.array([0.04, 0.3])), 16)
    latents = [rng.standard_normal((24, 2)).astype(np.float32) for _ in range(2)]
    program = Tuner(toy, edm, *map(NoiseSamples, latents), reference_steps=16).tune(1).program
    assert (program.nfe, program.slots, program.name) == (1, 1, "tuned-1")
    assert program.meta["psnr"] > 45


@pytest.mark.parametrize("nfe", [0, 16, -3])
def test_evaluations_are_bounded(nfe: int, edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points, 4)
    tuner = Tuner(toy, edm, noise(rng, 8), noise(rng, 2), reference_steps=4)
    with pytest.raises(AigcEdgeError, match="1 to 15"):
        tuner.tune(nfe)


def test_what_cannot_be_tuned_is_refused(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points, 4)
    with pytest.raises(AigcEdgeError, match="4 training and 8 held-out"):
        Tuner(toy, edm, noise(rng, 4), noise(rng, 8))
    with pytest.raises(AigcEdgeError, match="null class"):
        Tuner(toy, edm, noise(rng, 8), noise(rng, 8), guidance_scale=2.0)
    with pytest.raises(AigcEdgeError, match="NaN or infinity"):
        Tuner(lambda x, t, c: x * np.nan, edm, noise(rng, 8), noise(rng, 8), reference_steps=4)
    with pytest.raises(ProgramError, match="prediction"):
        Tuner(toy, {}, noise(rng, 8), noise(rng, 8))
