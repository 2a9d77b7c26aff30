"""Convert every component to every format, calibrated on what it meets in the default program."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from aigc_edge.bundle.component import DECODER, SCHEDULE
from aigc_edge.compile.calibrating import calibration_of
from aigc_edge.compile.component_formats import companion, conversions
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.stage_cache import fingerprint
from aigc_edge.compile.state import CompileState
from aigc_edge.errors import BudgetError, CalibrationWarning
from aigc_edge.hardware import return_memory

if TYPE_CHECKING:
    from pathlib import Path

    from aigc_edge.compress.calibration.trajectory import Calibration
    from aigc_edge.compress.format import Format

LEAST_SHARE, LEAST_WEIGHTS = 0.5, 1 << 14  # of the weights in a format, below which there is a warning; and of weights at all


def convert_all(state: CompileState) -> None:
    """Convert all components to every derived format of the request; those that miss their budget, or cannot hold
    a network, go to `state.failed`."""
    for name in state.request.derived:
        state.start(f"making {name}")
        try:
            convert_format(state, state.request.formats[name])
        except BudgetError as error:
            state.failed[name] = str(error)


def convert_format(state: CompileState, format: Format, weight_only: Collection[str] = ()) -> None:
    """Convert all components to one format, with a graph for each engine of the targets that needs its own.

    The main component is calibrated along the trajectory, a decoder behind it on latents of the default program, text encoders
    on the calibration prompts. The others are stored in the format's companion where they are in `weight_only`, where the format
    has to (`Format.everywhere`) and where they miss the format's budget themselves; `state.stored` says which and why.
    """
    reports, stored = state.reports.setdefault(format.name, {}), state.stored.setdefault(format.name, {})
    reports.clear()
    stored.clear()
    jobs = list(conversions(state, format, weight_only))
    for done, (part, engine, candidates) in enumerate(jobs):
        progress = state.clock.within(done / len(jobs), (done + 1) / len(jobs))
        reason = "the images missed the budget" if part in weight_only else ""
        for chosen in candidates:
            if chosen.name == REFERENCE:
                state.set_file(part, format.name, engine, state.components[part].file(REFERENCE))
                _record(stored, part, engine, format, chosen, reason)
                break
            if part != state.main and chosen is not candidates[-1] and not _calibrated(state, part):
                reason = "there are fewer than two samples to calibrate on"
                continue
            # Each part has one graph in a format for all engines but those that need their own.
            suffix = f".{engine}" if engine not in ("file", *_without_own_graph(chosen)) else ""
            needed = part in (state.main, DECODER) or chosen is not candidates[-1]
            calibration = calibration_of(state, part) if needed else None
            try:
                file, report = _convert_beside(state, part, format.name, chosen, calibration, suffix, progress)
            except BudgetError as error:
                if chosen is candidates[-1]:
                    raise
                reason = str(error)
                continue
            state.set_file(part, format.name, engine, file)
            reports[f"{part}.{chosen.name}{suffix}"] = report
            if part == state.main:
                _check_share(format.name, part, report)
            _record(stored, part, engine, format, chosen, reason)
            break


def _record(stored: dict[str, dict[str, Any]], part: str, engine: str, format: Format, chosen: Format, reason: str) -> None:
    """Say what a component is stored in, and why; of an engine with its own graph where that is in another format."""
    entry: dict[str, Any] = {"format": chosen.name} | ({"reason": reason} if reason and chosen.name != format.name else {})
    if engine == "file":
        stored[part] = entry
    elif chosen.name != stored[part]["format"]:
        stored[part].setdefault("engines", {})[engine] = entry


def _convert_beside(
    state: CompileState, part: str, name: str, chosen: Format, calibration: Calibration | None, suffix: str, progress: Any
) -> tuple[str, dict[str, Any]]:
    """Convert a component for the format `name`; returns its file, which those of other formats are not replaced by, and report.

    Formats share a companion, but may hold it to different limits.
    """
    formats = state.components[part].formats.items()
    others = {file for other, files in formats if other != name for file in files.values()}
    file = f"{part}.{chosen.name}{suffix}.onnx"
    report = _convert(state, part, chosen, calibration, file, progress, file in others)
    if report is None:
        file = f"{part}.{chosen.name}{suffix}.{name}.onnx"
        report = _convert(state, part, chosen, calibration, file, progress)
    assert report is not None
    return file, report


def _calibrated(state: CompileState, part: str) -> bool:
    """Whether there are samples to calibrate the component on, and others to compare it on."""
    calibration = calibration_of(state, part)
    return calibration is not None and len(calibration.latents) >= 2


def _without_own_graph(format: Format) -> tuple[str, ...]:
    """The engines of a fallback that evaluates the graph of another one: OpenVINO that of onnxruntime."""
    return ("openvino",) if getattr(format, "engine", "") == "onnxruntime" else ()


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
    chosen = companion(next(iter(formats.values())))
    file = f"{SCHEDULE}.{chosen.name}.onnx"
    _convert(state, SCHEDULE, chosen, None, file, lambda *_: None)
    state.components[SCHEDULE] = schedule._replace(formats={chosen.name: {"file": file}})


def _convert(
    state: CompileState, part: str, format: Format, calibration: Calibration | None, file: str, progress: Any, taken: bool = False
) -> dict[str, Any] | None:
    """Convert a component to `file`; returns its report, or None where the file is `taken` by another network than this."""
    source = state.file(part, REFERENCE)
    calibrated_on = None if calibration is None else calibration.fingerprint()
    key = [fingerprint(source, source.with_name(source.name + ".data")), repr(format), calibrated_on, file]

    def convert(folder: Path) -> dict[str, Any]:
        return format.convert(source, folder / file, calibration, progress=progress, threads=state.request.threads).to_json()

    stage_folder, report, _ = state.stages.get_or_create(f"{part} as {format.name}", key, convert)
    gc.collect()  # networks are in reference cycles: few objects, much memory
    return_memory()
    if taken:
        own, other = (fingerprint(folder / file, folder / f"{file}.data") for folder in (stage_folder, state.folder))
        return report if own == other else None
    state.add_file(stage_folder, file)
    return report
