"""Converts every component to every format: the denoiser calibrated along its trajectory, the others without calibration."""

from __future__ import annotations

import dataclasses
import functools
import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_edge.bundle.component import SCHEDULE
from aigc_edge.compile.conditions import arrays
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.steps import fingerprint
from aigc_edge.compile.work import Work
from aigc_edge.hardware import return_memory

if TYPE_CHECKING:
    from aigc_edge.compress.calibration.trajectory import Calibration
    from aigc_edge.compress.format import Format

# Samples to calibrate on: as many as MACS multiply-adds allow, from LEAST to CALIBRATION; EVALUATION_MACS: to evaluate on.
CALIBRATION, LEAST, MACS, EVALUATION_MACS = 64, 4, 2.5e12, 1e13
ENGINES = ("onnxruntime", "openvino", "tensorrt")  # the graph for the first is "file"; the others get their own where it differs


def convert_all(work: Work) -> None:
    """Convert all components to every derived format of the request."""
    for name in work.request.derived:
        work.start(f"making {name}")
        convert_format(work, work.request.formats[name])


def convert_format(work: Work, format: Format) -> None:
    """Convert all components to one format, in the graphs that the engines of the targets need.

    Text encoders and latent decoders take the format's companion, which needs no calibration.
    """
    done, reports = 0, work.reports.setdefault(format.name, {})
    reports.clear()
    jobs = [
        (part, engine, chosen)
        for part in work.networks
        for engine, chosen in _variants(work, format if part == work.main else _companion(format)).items()
    ]
    for part, engine, chosen in jobs:
        file = f"{part}.{chosen.name}.onnx" if engine == "file" else f"{part}.{chosen.name}.{engine}.onnx"
        tell = work.clock.within(done / len(jobs), (done + 1) / len(jobs))
        done += 1
        if chosen.name == REFERENCE:
            work.set_file(part, format.name, engine, work.components[part].file(REFERENCE))
            continue
        calibration = _calibration(work) if part == work.main else None
        report = _convert(work, part, chosen, calibration, file, tell)
        work.set_file(part, format.name, engine, file)
        reports[file.removesuffix(".onnx")] = report


def store_schedule(work: Work) -> None:
    """In a bundle without fp32, store the schedule's network, which few timesteps need, as small as the rest."""
    schedule, formats = work.components.get(SCHEDULE), work.request.formats
    if schedule is None or REFERENCE in formats:
        return
    chosen = _companion(next(iter(formats.values())))
    file = f"{SCHEDULE}.{chosen.name}.onnx"
    _convert(work, SCHEDULE, chosen, None, file, lambda *_: None)
    work.components[SCHEDULE] = replace(schedule, formats={chosen.name: {"file": file}})


def _convert(work: Work, part: str, format: Format, calibration: Calibration | None, file: str, tell: Any) -> dict[str, Any]:
    source = work.file(part, REFERENCE)
    seen = None if calibration is None else calibration.fingerprint()
    key = [fingerprint(source, source.with_name(source.name + ".data")), repr(format), seen]

    def make(folder: Path) -> dict[str, Any]:
        return format.convert(source, folder / file, calibration, progress=tell, threads=work.request.threads).to_json()

    place, report, _ = work.steps.once(f"{part} as {format.name}", key, make)
    gc.collect()  # networks in cycles: few objects, much memory
    return_memory()
    work.take(place, file)
    return report


def _variants(work: Work, format: Format) -> dict[str, Format]:
    """The format for each engine that a target may use and that needs a graph of its own; "file" is for all others."""
    kinds = {target.kind for target in work.request.targets}
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


def _calibration(work: Work) -> Calibration:
    from aigc_edge.compress.calibration.trajectory import Calibration

    program, spec = work.programs[work.default_program], work.spec(work.main)
    count = sample_budget(work, CALIBRATION, MACS)
    own, negative = arrays(work)
    return Calibration.draw(
        spec, program, count, num_classes=work.num_classes, constants=work.constants, conditions=own, negative=negative
    )


def sample_budget(work: Work, most: int, macs: float, least: int = LEAST) -> int:
    """The number of samples of the default program that `macs` multiply-adds allow, from `least` to `most`."""
    program = work.programs[work.default_program]
    each = _macs(work.file(work.main, REFERENCE)) * max(program.sample_evaluations, 1)
    return int(np.clip(macs / max(each, 1), min(least, most), most))


@functools.cache
def _macs(file: Path) -> int:
    from aigc_edge.compress.graphs import graph

    return sum(layer.macs for layer in graph.layers(graph.load(file)))
