"""From a generator to a bundle: export, formats, engines, quality on the same noise, programs, one atomic write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.write import write_bundle
from aigc_edge.clock import Progress
from aigc_edge.compile.command import command_of
from aigc_edge.compile.compressing import EVALUATION_MACS, convert_all, sample_budget, store_schedule
from aigc_edge.compile.engines import build_engines
from aigc_edge.compile.evaluation import PREVIEW, evaluate_formats, preview
from aigc_edge.compile.exporting import describe, export, tabulate
from aigc_edge.compile.judging import JUDGE, check_budget, has_judge, make_judge
from aigc_edge.compile.request import REFERENCE, CompileRequest, check_output
from aigc_edge.compile.work import COSTS, begun
from aigc_edge.compress.budget import Budget
from aigc_edge.errors import AigcEdgeError
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

    Returns the bundle's manifest. A parsed `request` takes the place of `formats`, `targets`, `budget`, `samples`, `seed` and
    `threads`. `formats` may carry options ("int8:psnr=35"); the first is the bundle's default. Every format
    is measured against fp32 on `samples` images from the same noise (None: what the source and its cost allow); one that misses
    the `budget` ("psnr=30", "frechet=1.05x") is made again with more layers in higher precision, and the bundle is refused when
    that does not help. `solver`, `steps` and `guidance_scale` make the default program (None: the source's own). Without
    `weights` the bundle lacks the copy that the torch engine loads, and is smaller. `schedule_constants` takes out of the
    denoiser what depends on the timestep alone: its results come from a table in the bundle. Engines are built for the GPU
    targets that can be built for here; for the others the bundle carries the ONNX files, from which the device builds its own.

    `progress(what, done, seconds_left)` is called as the work goes on, `done` in 0 … 1. What was finished before an interruption
    or a failure is kept for two weeks, and the same call goes on from it. Raises AigcEdgeError (BudgetError for quality) for
    whatever a user can mend, before the long work where it can be known; nothing half-written is left.
    """
    if request is None:
        request = CompileRequest.parse(formats, targets, budget, samples=samples, seed=seed, threads=threads)
    check_output(Path(out), overwrite)
    found = source if isinstance(source, Source) else open_source(os.fspath(source), options)
    check_budget(request.budget, found)
    with begun(request, progress) as work:
        describe(work, found)
        requested: dict[str, Any] = {"format": request.format_texts, "target": request.target_texts}
        requested |= {"solver": solver, "steps": steps, "guidance": guidance_scale}
        requested |= {"budget": request.budget.words, "samples": request.samples, "seed": request.seed or None}
        requested |= {"weights": weights, "schedule_constants": schedule_constants}
        provenance = {**work.manifest.provenance, "command": command_of(found, requested)}
        work.manifest = replace(work.manifest, provenance=provenance)
        made = found.programs(solver, steps, guidance_scale)
        if made[0].guidance_scale != 1 and not (found.num_classes or found.text or found.conditions):
            raise AigcEdgeError(
                f"a guidance scale of {made[0].guidance_scale:g} was asked for, but {found.name} takes neither classes nor "
                "prompts nor other conditions that guidance could strengthen: leave it out"
            )
        work.programs, work.default_program = {program.name: program for program in made}, made[0].name
        parts = len(found.parts())
        judge = COSTS["judge"] if found.judged and not has_judge(found) else 0.0
        stages = {"exporting": COSTS["export"] * parts, JUDGE: judge}
        stages |= {f"making {name}": COSTS["format"] * parts for name in request.derived}
        stages |= {f"measuring {name}": COSTS["quality"] for name in (REFERENCE, *request.derived)}
        stages |= {"building engines": COSTS["plan"] * len(request.plans) * parts, PREVIEW: COSTS["quality"] / 2}
        work.plan_stages(**stages, writing=COSTS["write"])
        export(work, found, weights=weights, schedule_constants=schedule_constants)
        tabulate(work)
        make_judge(work, found)
        convert_all(work)
        evaluate_formats(work, request.samples or sample_budget(work, found.samples, EVALUATION_MACS))
        build_engines(work)
        preview(work)
        for name, part in work.networks.items():
            work.components[name] = replace(part, formats={format: part.formats[format] for format in request.formats})
        store_schedule(work)
        work.start("writing")
        files = work.files | work.network_files(list(request.formats))
        manifest = write_bundle(Path(out), work.whole_manifest(Path(out).stem), files, overwrite=overwrite)
        work.clock.finish()
    return manifest
