"""Convert every component to every format: the denoiser calibrated along its trajectory, the others without calibration."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import aigc_edge
from aigc_edge.bundle.component import DECODER, DENOISER, SCHEDULE
from aigc_edge.bundle.manifest import CalibrationEntry
from aigc_edge.compile.conditions import arrays, conditions_of
from aigc_edge.compile.request import REFERENCE, with_limits
from aigc_edge.compile.stage_cache import fingerprint
from aigc_edge.compile.state import CompileState
from aigc_edge.diffusion import Program
from aigc_edge.errors import BudgetError, CalibrationWarning
from aigc_edge.hardware import return_memory

if TYPE_CHECKING:
    from aigc_edge.compress.calibration.trajectory import Calibration
    from aigc_edge.compress.format import Format

# Calibration samples: as many as MACS multiply-adds allow, from LEAST to CALIBRATION. EVALUATION_MACS limits the evaluation.
CALIBRATION, LEAST, MACS, EVALUATION_MACS = 64, 4, 2.5e12, 1e13
LATENTS, LATENT_MACS, LATENT_SEED = 4, 1e12, 1 << 32  # of the samples whose latents decoders are compared on
LEAST_SHARE, LEAST_WEIGHTS = 0.5, 1 << 14  # of the weights in a format, below which there is a warning; and of weights at all
ENGINES = (
    "onnxruntime",
    "openvino",
    "tensorrt",
)  # the graph of the first is stored as "file"; the others have their own where it differs


def convert_all(state: CompileState) -> None:
    """Convert all components to every derived format of the request; those that miss their budget, or cannot hold
    a network, go to `state.failed`."""
    for name in state.request.derived:
        state.start(f"making {name}")
        try:
            convert_format(state, state.request.formats[name])
        except BudgetError as error:
            state.failed[name] = str(error)


def convert_format(state: CompileState, format: Format) -> None:
    """Convert all components to one format, with a graph for each engine of the targets that needs its own.

    Text encoders and latent decoders are converted to the format's companion, which needs no calibration; a decoder is compared
    with fp32 on latents of the default program.
    """
    done, reports = 0, state.reports.setdefault(format.name, {})
    reports.clear()
    jobs = [
        (part, engine, chosen)
        for part in state.networks
        for engine, chosen in _variants(state, format if part == state.main else _companion(format)).items()
    ]
    for part, engine, chosen in jobs:
        file = f"{part}.{chosen.name}.onnx" if engine == "file" else f"{part}.{chosen.name}.{engine}.onnx"
        progress = state.clock.within(done / len(jobs), (done + 1) / len(jobs))
        done += 1
        if chosen.name == REFERENCE:
            state.set_file(part, format.name, engine, state.components[part].file(REFERENCE))
            continue
        calibration = _calibration(state) if part == state.main else _of_decoder(state) if part == DECODER else None
        report = _convert(state, part, chosen, calibration, file, progress)
        state.set_file(part, format.name, engine, file)
        reports[file.removesuffix(".onnx")] = report
        if part == state.main:
            _check_share(format.name, part, report)


def _check_share(format: str, part: str, report: dict[str, Any]) -> None:
    """Warn about a format that holds few of the network's weights; raises BudgetError for one that holds none."""
    share, weights = report.get("weight_share"), report.get("weights") or 0
    if share is None or share >= LEAST_SHARE or weights < LEAST_WEIGHTS:
        return
    what = (
        f"{share:.0%} of the {weights:,} weights of the {part} are in {format}: the others are not constants of a convolution, "
    )
    what += "matrix product or embedding table that it holds, or fell back to float"
    if share == 0:
        raise BudgetError(f"{what}; the file would be that of fp32: leave {format} out")
    warnings.warn(what, CalibrationWarning, stacklevel=2)


def weight_share(reports: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The share of the weights of all networks that is in a format, from its compression reports; None where unknown."""
    known = [report for report in reports.values() if report.get("weight_share") is not None]
    weights = sum(report["weights"] for report in known)
    return sum(report["weights"] * report["weight_share"] for report in known) / weights if weights else None


def store_schedule(state: CompileState) -> None:
    """In a bundle without fp32, convert the schedule's network too, so that it is as small as the rest."""
    schedule, formats = state.components.get(SCHEDULE), state.request.formats
    if schedule is None or REFERENCE in formats:
        return
    chosen = _companion(next(iter(formats.values())))
    file = f"{SCHEDULE}.{chosen.name}.onnx"
    _convert(state, SCHEDULE, chosen, None, file, lambda *_: None)
    state.components[SCHEDULE] = schedule._replace(formats={chosen.name: {"file": file}})


def _convert(
    state: CompileState, part: str, format: Format, calibration: Calibration | None, file: str, progress: Any
) -> dict[str, Any]:
    source = state.file(part, REFERENCE)
    calibrated_on = None if calibration is None else calibration.fingerprint()
    key = [fingerprint(source, source.with_name(source.name + ".data")), repr(format), calibrated_on]

    def convert(folder: Path) -> dict[str, Any]:
        return format.convert(source, folder / file, calibration, progress=progress, threads=state.request.threads).to_json()

    stage_folder, report, _ = state.stages.get_or_create(f"{part} as {format.name}", key, convert)
    gc.collect()  # networks are in reference cycles: few objects, much memory
    return_memory()
    state.add_file(stage_folder, file)
    return report


def _variants(state: CompileState, format: Format) -> dict[str, Format]:
    """The format for each engine of the targets that needs its own graph; "file" is for all others."""
    kinds = {target.kind for target in state.request.targets}
    engines = [ENGINES[0], *(["openvino"] if "cpu" in kinds else []), *(["tensorrt"] if "gpu" in kinds else [])]
    by_engine: dict[str, Format] = {}
    for engine in engines:
        chosen = _for_engine(format, engine)
        if chosen is not None and chosen not in by_engine.values():
            by_engine["file" if engine == ENGINES[0] else engine] = chosen
    return by_engine


def _for_engine(format: Format, engine: str) -> Format | None:
    for field in dataclasses.fields(format):
        if field.name == "engine":
            known = engine in (field.metadata.get("choices") or ())
            return dataclasses.replace(format, engine=engine) if known else None  # type: ignore[call-arg]
    return format


def _companion(format: Format) -> Format:
    """The format of the other networks, which have to hold no more than the format itself."""
    from aigc_edge.compress.evaluation.quality import Requirement
    from aigc_edge.compress.format import parse
    from aigc_edge.compress.recipes.mixed_precision import MixedPrecision

    if format.companion is None:
        return format
    companion = parse(format.companion)
    if not (isinstance(format, MixedPrecision) and isinstance(companion, MixedPrecision)):
        return companion
    psnr = min(companion.psnr, format.psnr)
    return with_limits(companion, psnr=psnr, centred_l2=max(format.centred_l2, Requirement(psnr).most_centred_l2))


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
        count, conditions = sample_budget(state, LATENTS, LATENT_MACS, least=2), conditions_of(state)
        name = next(tensor.name for tensor in state.spec(DECODER).inputs if tensor.role == "sample")
        latents: list[np.ndarray] = []
        images: list[np.ndarray] = []

        def watch(component: str, row: int, inputs: Any, outputs: Any) -> None:
            if component == DECODER:
                latents.append(np.array(inputs[name]))

        with aigc_edge.open(state.draft([REFERENCE]), threads=state.request.threads, verify="none") as pipeline:
            for index in range(count):
                options = conditions(np.arange(index, index + 1)) | {"seed": LATENT_SEED + index, "output": "float32"}
                images.append(pipeline.sample(1, watch=watch, **options))
        state.decoded = np.concatenate(latents), np.concatenate(images)
    return state.decoded


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
