"""Predict a compilation for each format and target, including what is unsupported, without building anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aigc_edge.compile.request import CompileRequest, this_machine
from aigc_edge.engines.formats import formats_of, runs_on
from aigc_edge.engines.plans.support import limit_of
from aigc_edge.preflight import predict
from aigc_edge.preflight.processor import measured
from aigc_edge.preflight.survey import Survey
from aigc_edge.sources.base import Source
from aigc_edge.sources.onnx.component import OnnxComponent
from aigc_edge.targets import Target

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

ROOM = 0.8  # share of a device's memory available for networks
MAIN = ("denoiser", "decoder")  # stored in the format itself; the others too where it is for all, else in its companion


def survey_source(source: Source) -> list[Survey]:
    """Surveys of all networks of the source, one in memory at a time."""
    from aigc_edge.preflight import onnx_survey, torch_survey

    surveys = []
    for part in source.components():
        if isinstance(part, OnnxComponent):
            surveys.append(onnx_survey.survey(part.spec.name, part.outline()))
        else:
            surveys.append(torch_survey.survey(part))
    return surveys


def plan(
    source: Source,
    request: CompileRequest,
    *,
    solver: str | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch: int = 1,
) -> dict[str, Any]:
    """Predict the result of compiling `source`, as JSON; also for formats that a target does not run.

    A target that is the CPU of this machine is measured first, with the request's threads.

    "networks" (parameters, multiply-adds), "formats" (bytes of every network and of the bundle's networks, peak memory of a
    process that samples a batch), "targets" (for each format a lower bound of the seconds per image, what limits it and notes,
    or why it does not run), "figures" (the rates that the times of each target are computed from), "compile" (peak memory).
    Raises AigcEdgeError for an unknown solver and sources that cannot be opened.
    """
    own, chosen = this_machine(), list(request.formats.values())
    devices = [measured(t, request.threads) if t.kind == "cpu" and t.name in own else t for t in request.targets]
    program = source.programs(solver, steps, guidance_scale)[0]
    surveys, files = survey_source(source), all(isinstance(part, OnnxComponent) for part in source.components())
    main = next(name for name in MAIN if any(survey.component == name for survey in surveys))
    stored = {format.name: _formats(surveys, format, main) for format in chosen}
    sizes = {
        name: {survey.component: predict.file_bytes(survey, formats[survey.component]) for survey in surveys}
        for name, formats in stored.items()
    }
    # Guidance that is an input of the network needs one evaluation per row at every scale.
    embedded = any(tensor.role == "guidance" for part in source.components() for tensor in part.spec.inputs)
    halves = 1 if embedded or all(weight == 1 for weight in program.weights) else 2
    count = program.nfe if embedded else program.sample_evaluations
    evaluations = {survey.component: 1 for survey in surveys} | ({"denoiser": count} if program.rows else {})
    # Number of runs per batch, and samples per run: guidance evaluates both halves in one run, so weights are read once.
    calls = {survey.component: (1, float(batch)) for survey in surveys}
    calls |= {"denoiser": (program.nfe, batch * count / program.nfe)} if program.rows else {}
    schedule = sum(map(predict.schedule_bytes, surveys))  # of a bundle with fp32; otherwise the schedule is compressed too
    networks = sum((1 + _graphs(f, devices, part == main)) * size for f in chosen for part, size in sizes[f.name].items())
    weights = sum(predict.FLOAT * survey.parameters for survey in surveys) if source.model_config() else 0
    return {
        "source": source.name,
        "family": source.family,
        "program": program.name,
        "evaluations": evaluations,
        "batch": batch,
        "networks": {s.component: {"parameters": s.parameters, "macs": s.macs, "activations": s.activations} for s in surveys},
        "formats": {
            name: {"bytes": sizes[name], "memory": predict.running_bytes(surveys, sizes[name], stored[name], batch * halves)}
            for name in stored
        },
        "weights_copy": weights,
        "bundle": weights + schedule + networks,
        "compile": {"memory": predict.compiling_bytes(surveys, predict.OF_FILES if files else predict.OF_MODULES)},
        "figures": {t.name: {"tops": t.tops, "bandwidth_gbs": t.bandwidth_gbs, "of": t.figures} for t in devices},
        "targets": {
            t.name: {
                f.name: _on(t, f, surveys, _formats(surveys, f, main, t.kind), sum(sizes[f.name].values()), calls, batch)
                for f in chosen
            }
            for t in devices
        },
    }


def _graphs(format: Format, devices: Sequence[Target], main: bool) -> int:
    """The number of extra graphs of the main network, or of another one, for engines of the targets."""
    if not main and not format.everywhere:
        return 0
    engines = next((f.metadata.get("choices") or () for f in dataclasses.fields(format) if f.name == "engine"), ())
    kinds = {target.kind for target in devices}
    return ("openvino" in engines and "cpu" in kinds) + ("tensorrt" in engines and "gpu" in kinds)


def _formats(surveys: Sequence[Survey], format: Format, main: str, kind: str = "cpu") -> dict[str, Format]:
    """The format in which each component is stored for targets of a kind, if the quality gate holds."""
    from aigc_edge.compress.format import parse

    own = format.companion is None or (format.everywhere and kind == "cpu")
    companion = format if own else parse(str(format.companion))
    return {survey.component: format if survey.component == main else companion for survey in surveys}


def _on(
    target: Target,
    format: Format,
    surveys: Sequence[Survey],
    formats: Mapping[str, Format],
    total: int,
    calls: Mapping[str, tuple[int, float]],
    batch: int,
) -> dict[str, Any]:
    if not runs_on(type(format), target):
        return {"why_not": f"{target.name} runs {', '.join(formats_of(target))}"}
    limits_of_weights = {limit_of(target, format.asked, weight.operator) for survey in surveys for weight in survey.weights}
    limits = [limit for limit in limits_of_weights if limit is not None]
    impossible = [limit for limit in limits if limit.runs is None]
    if impossible:
        return {"why_not": impossible[0].why}
    parts: dict[str, dict[str, Any]] = {}
    for survey in surveys:
        times, samples = calls[survey.component]
        each, bound = predict.evaluation(survey, formats[survey.component], target, samples)
        parts[survey.component] = {"seconds": each, "evaluations": times, "samples": samples, "bound": bound}
    known = all(part["seconds"] is not None for part in parts.values())
    seconds = sum(part["seconds"] * part["evaluations"] for part in parts.values()) / batch if known else None
    notes = [f"{limit.operator} runs in {limit.runs}: {limit.why}" for limit in limits]
    if target.memory_gb is not None and total > ROOM * 1e9 * target.memory_gb:
        notes.append(
            f"networks of {total / 1e9:.1f} GB leave too little of the device's {target.memory_gb:g} GB for anything else"
        )
    return {"seconds": seconds, "networks": parts, "notes": notes}
