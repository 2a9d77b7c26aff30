"""Convert every component to every format: the denoiser calibrated along its trajectory, the others without calibration."""

from __future__ import annotations

import dataclasses
import functools
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_edge.bundle.component import SCHEDULE
from aigc_edge.compile.conditions import arrays
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.stage_cache import fingerprint
from aigc_edge.compile.state import CompileState
from aigc_edge.hardware import return_memory

if TYPE_CHECKING:
    from aigc_edge.compress.calibration.trajectory import Calibration
    from aigc_edge.compress.format import Format

# Calibration samples: as many as MACS multiply-adds allow, from LEAST to CALIBRATION. EVALUATION_MACS limits the evaluation.
CALIBRATION, LEAST, MACS, EVALUATION_MACS = 64, 4, 2.5e12, 1e13
ENGINES = (
    "onnxruntime",
    "openvino",
    "tensorrt",
)  # the graph of the first is stored as "file"; the others have their own where it differs


def convert_all(state: CompileState) -> None:
    """Convert all components to every derived format of the request."""
    for name in state.request.derived:
        state.start(f"making {name}")
        convert_format(state, state.request.formats[name])


def convert_format(state: CompileState, format: Format) -> None:
    """Convert all components to one format, with a graph for each engine of the targets that needs its own.

    Text encoders and latent decoders are converted to the format's companion, which needs no calibration.
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
        calibration = _calibration(state) if part == state.main else None
        report = _convert(state, part, chosen, calibration, file, progress)
        state.set_file(part, format.name, engine, file)
        reports[file.removesuffix(".onnx")] = report


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
    from aigc_edge.compress.format import parse

    return format if format.companion is None else parse(format.companion)


def _calibration(state: CompileState) -> Calibration:
    from aigc_edge.compress.calibration.trajectory import Calibration

    program, spec = state.programs[state.default_program], state.spec(state.main)
    count = sample_budget(state, CALIBRATION, MACS)
    own, negative = arrays(state)
    return Calibration.draw(
        spec, program, count, num_classes=state.num_classes, constants=state.constants, conditions=own, negative=negative
    )


def sample_budget(state: CompileState, most: int, macs: float, least: int = LEAST) -> int:
    """The number of samples of the default program that `macs` multiply-adds allow, from `least` to `most`."""
    program = state.programs[state.default_program]
    each = _macs(state.file(state.main, REFERENCE)) * max(program.sample_evaluations, 1)
    return int(np.clip(macs / max(each, 1), min(least, most), most))


@functools.cache
def _macs(file: Path) -> int:
    from aigc_edge.compress.graphs import graph

    return sum(layer.macs for layer in graph.layers(graph.load(file)))
