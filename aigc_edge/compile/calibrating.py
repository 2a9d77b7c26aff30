"""What components are calibrated and compared on: the trajectory, the latents and the prompts of the default program."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import aigc_edge
from aigc_edge.bundle.component import DECODER, DENOISER, TEXT_ENCODERS
from aigc_edge.bundle.manifest import CalibrationEntry
from aigc_edge.compile.conditions import arrays, conditions_of, tokens
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.state import CompileState
from aigc_edge.diffusion import Program
from aigc_edge.engines.base import EXACT

if TYPE_CHECKING:
    from aigc_edge.compress.calibration.trajectory import Calibration

# Calibration samples: as many as MACS multiply-adds allow, from LEAST to CALIBRATION.
CALIBRATION, LEAST, MACS = 64, 4, 2.5e12
EVALUATION_MACS = 1e13  # limits the evaluation
LATENTS, LATENT_MACS, LATENT_SEED = 4, 1e12, 1 << 32  # of the samples whose latents decoders are compared on
QUANTISED_LATENTS = 16  # where a decoder is calibrated on them too, at least LEAST


def calibration_of(state: CompileState, part: str) -> Calibration | None:
    """What `part` is calibrated and compared on; None where there is nothing: fewer than two prompts, or a schedule."""
    if part == state.main:
        return _calibration(state)
    if part == DECODER:
        return _of_decoder(state)
    return _of_text_encoder(state, part) if part in TEXT_ENCODERS else None


def _calibration(state: CompileState) -> Calibration:
    from aigc_edge.compress.calibration.trajectory import Calibration

    program, spec = state.programs[state.default_program], state.spec(state.main)
    count = sample_budget(state, CALIBRATION, MACS)
    own, negative = arrays(state)
    low, high = state.manifest.output_range
    latents = state.main == DENOISER and DECODER in state.components
    calibration = Calibration.draw(
        spec,
        program,
        count,
        num_classes=state.num_classes,
        constants=state.constants,
        conditions=own,
        negative=negative,
        inputs=state.inputs.part(held_out=False),
        limits=(-math.inf, math.inf) if latents else (float(low), float(high)),
    )
    _record_ranges(state, calibration)
    return calibration


def _of_decoder(state: CompileState) -> Calibration:
    """The latents that the decoder behind a denoiser is compared on."""
    from aigc_edge.compress.calibration.trajectory import Calibration

    low, high = state.manifest.output_range
    program = Program("decoder", slots=1, init_scale=1.0, rows=())
    return Calibration(state.spec(DECODER), program, decoded_samples(state)[0], limits=(float(low), float(high)))


def decoded_samples(state: CompileState) -> tuple[np.ndarray, np.ndarray]:
    """The latents that the default program computes with fp32, and what the decoder behind it returns for them, not clamped."""
    if state.decoded is None:
        calibrates = any(format.everywhere for format in state.request.formats.values())
        most, least = (QUANTISED_LATENTS, LEAST) if calibrates else (LATENTS, 2)
        count, conditions = sample_budget(state, most, LATENT_MACS, least=least), conditions_of(state)
        name = next(tensor.name for tensor in state.spec(DECODER).inputs if tensor.role == "sample")
        latents: list[np.ndarray] = []
        images: list[np.ndarray] = []

        def watch(component: str, row: int, inputs: Any, outputs: Any) -> None:
            if component == DECODER:
                latents.append(np.array(inputs[name]))

        with aigc_edge.open(state.draft([REFERENCE]), threads=state.request.threads, verify="none", precision=EXACT) as pipeline:
            for index in range(count):
                options = conditions(np.arange(index, index + 1)) | {"seed": LATENT_SEED + index, "output": "float32"}
                images.append(pipeline.sample(1, watch=watch, **options))
        state.decoded = np.concatenate(latents), np.concatenate(images)
    return state.decoded


def _of_text_encoder(state: CompileState, part: str) -> Calibration | None:
    """The tokens of the calibration prompts, and of the empty one that guidance leads away from."""
    from aigc_edge.compress.calibration.trajectory import Calibration

    ids = tokens(state, part)
    if len(ids) < 2:
        return None
    spec, program = state.spec(part), Program(part, slots=1, init_scale=1.0, rows=())
    weights: tuple[float, ...] = ()
    if len(spec.outputs) > 1:  # each counts alike, whatever its size and scale
        encoded = (arrays(state)[0] or {}).items()
        energy = {name: float(np.sum(np.square(array - array.mean(), dtype=np.float64))) / len(array) for name, array in encoded}
        weights = tuple(1 / math.sqrt(energy.get(tensor.name) or 1.0) for tensor in spec.outputs)
    latents = ids.astype(np.float32)  # exact below 2^24
    return Calibration(spec, program, latents, limits=(-math.inf, math.inf), output_weights=weights)


def _record_ranges(state: CompileState, calibration: Calibration) -> None:
    """Record the ranges of the inputs that a caller may give: conditions, and what a program without rows takes."""
    arrays = dict(calibration.conditions or {})
    if not calibration.program.rows:
        samples = {tensor.name: calibration.latents for tensor in calibration.spec.inputs if tensor.role == "sample"}
        arrays |= {name: state.inputs.arrays.get(name, latents) for name, latents in samples.items()}  # those held out too
    ranges = {name: (float(array.min()), float(array.max())) for name, array in arrays.items()}
    state.manifest = state.manifest._replace(calibration=CalibrationEntry(str(state.inputs), ranges))


def sample_budget(state: CompileState, most: int, macs: float, least: int = LEAST) -> int:
    """The number of samples of the default program that `macs` multiply-adds allow, from `least` to `most`."""
    program = state.programs[state.default_program]
    each = _macs(state.file(state.main, REFERENCE)) * max(program.sample_evaluations, 1)
    return int(np.clip(macs / max(each, 1), min(least, most), most))


@functools.cache
def _macs(file: Path) -> int:
    from aigc_edge.compress.graphs import graph

    return sum(layer.macs for layer in graph.layers(graph.load(file)))
