"""Compile a generator into a bundle: export, quantise, build engines, evaluate from the same noise, write atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.write import write_bundle
from aigc_edge.clock import Progress
from aigc_edge.compile.calibrating import EVALUATION_MACS, sample_budget
from aigc_edge.compile.command import command_of
from aigc_edge.compile.compressing import convert_all, store_schedule
from aigc_edge.compile.engines import build_engines
from aigc_edge.compile.evaluation import PREVIEW, evaluate_formats, preview
from aigc_edge.compile.exporting import describe, export, tabulate
from aigc_edge.compile.judging import JUDGE, check_budget, has_judge, make_judge
from aigc_edge.compile.output_range import check_output_range
from aigc_edge.compile.request import REFERENCE, CompileRequest
from aigc_edge.compile.state import COSTS, open_workspace, raise_failed
from aigc_edge.compress.budget import Budget
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import check_output
from aigc_edge.sources.base import Source, SourceOptions, open_source

__all__ = ["compile_source"]


def compile_source(
    source: str | os.PathLike[str] | Source,
    out: str | os.PathLike[str],
    request: CompileRequest | None = None,
    *,
    formats: Sequence[str] = (REFERENCE,),
    targets: Sequence[str] = ("x86-cpu",),
    solver: str | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    budget: Budget | Sequence[str] | None = None,
    samples: int | None = None,
    weights: bool = True,
    schedule_constants: bool = True,
    options: SourceOptions | None = None,
    overwrite: bool = False,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Compile `source` (a training run, a diffusers folder, an ONNX file, "package:function", a Source) into the bundle `out`.

    Returns the bundle's manifest. A parsed `request` replaces `formats`, `targets`, `budget`, `samples`, `seed` and
    `threads`. `formats` may carry options ("int8:psnr=35"); the first is the bundle's default. Every format
    is compared with fp32 on `samples` images from the same noise (None: as many as the source and its cost allow). A format that
    misses the `budget` ("psnr=30", "frechet=1.05x") is converted again with more layers in higher precision; if it still misses,
    the bundle is written without it before BudgetError is raised (nothing is written when no format is left, or fp32 alone
    although there is a `budget`). `solver`, `steps` and `guidance_scale` define the default program (None: the source's own).
    Without `weights` the bundle is smaller, but the torch engine cannot load it. `schedule_constants` moves everything that
    depends on the timestep alone out of the denoiser into a precomputed table. Engines are built for the GPU targets that this
    machine can build for; for the others the bundle carries the ONNX files, from which the device builds its own.

    `progress(what, done, seconds_left)` is called periodically, `done` in 0 … 1. Stages that finished before an interruption or a
    failure are cached for two weeks, and the same call resumes from them. Raises AigcEdgeError (BudgetError for quality) for
    errors that the caller can fix, before any long-running work where possible. No partial output is left behind.
    """
    if request is None:
        request = CompileRequest.parse(formats, targets, budget, samples=samples, seed=seed, threads=threads)
    check_output(Path(out), overwrite=overwrite)
    opened = source if isinstance(source, Source) else open_source(os.fspath(source), options)
    check_budget(request.budget, opened)
    with open_workspace(request, progress) as state:
        describe(state, opened)
        requested: dict[str, Any] = {"format": request.format_texts, "target": request.target_texts}
        requested |= {"solver": solver, "steps": steps, "guidance": guidance_scale}
        requested |= {"budget": request.budget.words, "samples": request.samples, "seed": request.seed or None}
        requested |= {"weights": weights, "schedule_constants": schedule_constants}
        provenance = {**state.manifest.provenance, "command": command_of(opened, requested)}
        state.manifest = state.manifest._replace(provenance=provenance)
        programs = opened.programs(solver, steps, guidance_scale)
        if programs[0].guidance_scale != 1 and not (opened.num_classes or opened.text or opened.conditions):
            raise AigcEdgeError(
                f"a guidance scale of {programs[0].guidance_scale:g} was requested, but {opened.name} takes no classes, prompts "
                "or other conditions that guidance could strengthen: leave it out"
            )
        state.programs, state.default_program = {program.name: program for program in programs}, programs[0].name
        parts = len(opened.components())
        judge = COSTS["judge"] if opened.judged and not has_judge(opened) else 0.0
        state.plan_stages(parts, {"exporting": COSTS["export"] * parts, JUDGE: judge}, {PREVIEW: COSTS["quality"] / 2})
        export(state, opened, weights=weights, schedule_constants=schedule_constants)
        tabulate(state)
        check_output_range(state)
        make_judge(state, opened)
        convert_all(state)
        evaluate_formats(state, request.samples or sample_budget(state, opened.samples, EVALUATION_MACS))
        build_engines(state)
        preview(state)
        request = state.request  # without the formats that missed the budget
        for name, part in state.networks.items():
            state.components[name] = part._replace(formats={format: part.formats[format] for format in request.formats})
        store_schedule(state)
        state.start("writing")
        files = state.files | state.network_files(list(request.formats))
        manifest = write_bundle(Path(out), state.whole_manifest(Path(out).stem), files, overwrite=overwrite)
        state.clock.finish()
    raise_failed(state, out)
    return manifest
