"""Further formats for a bundle that is already there, from its own float32 networks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aigc_edge.bundle.bundle import Bundle, require_version
from aigc_edge.bundle.component import SCHEDULE
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.storage import Files
from aigc_edge.bundle.write import write_bundle
from aigc_edge.clock import Progress
from aigc_edge.compile.command import command_line
from aigc_edge.compile.compressing import convert_all
from aigc_edge.compile.engines import build_engines
from aigc_edge.compile.evaluation import evaluate_formats
from aigc_edge.compile.judging import use_judge
from aigc_edge.compile.request import REFERENCE, CompileRequest, check_output
from aigc_edge.compile.work import COSTS, Work, begun, link
from aigc_edge.compress.budget import Budget
from aigc_edge.engines.constants import Constants
from aigc_edge.errors import AigcEdgeError

SAMPLES = 64  # a format, where the bundle does not say on how many it was measured


def quantise_bundle(
    bundle: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    out: str | os.PathLike[str] | None = None,
    targets: Sequence[str] | None = None,
    budget: Budget | Sequence[str] | None = None,
    samples: int | None = None,
    default: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Put `formats` into the bundle (a folder or one file), or into a copy of it at `out`, and return its new manifest.

    They are made from its fp32 networks with its default program, and proven as `compile_source` does, on as many samples as fp32
    was unless `samples` says so. `targets` are those of the bundle unless given; `default` makes the first of the formats the
    bundle's default. A format that the bundle has already, and an `out` that exists, are replaced only with `overwrite`.
    Interrupted, the same call goes on. Raises AigcEdgeError for whatever a user can mend; the bundle is then as it was.
    """
    path = Path(bundle)
    opened = Bundle.open(path, verify=True)
    manifest = opened.manifest
    _check(path, manifest)
    devices = list(targets) if targets is not None else list(manifest.targets) or ["x86-cpu"]
    final, exchange = Path(out or path), overwrite or out is None
    request = CompileRequest.parse(formats, devices, budget, samples=samples, seed=seed, threads=threads)
    check_output(final, exchange)
    there = [name for name in request.formats if name in manifest.main.formats]
    if there and not overwrite:
        raise AigcEdgeError(f"{path} has {', '.join(there)} already: ask to overwrite it, or leave it out")
    if REFERENCE in there:
        raise AigcEdgeError(f"{REFERENCE} is what the other formats are made from: leave it out")
    if request.budget.frechet is not None and manifest.judge is None:
        raise AigcEdgeError(
            f"a Fréchet distance was asked for, but {path} has no judge: compile it with --data, or ask for psnr=…"
        )
    with begun(request, progress) as work, opened.extract(beside=True) as folder:
        _load(work, manifest, folder)
        said = {"format": formats, "target": targets, "budget": request.budget.words, "samples": samples, "seed": seed or None}
        commands = [*work.manifest.provenance.get("quantised", ()), command_line("quantise", path.name, said)]
        work.manifest = replace(work.manifest, provenance={**work.manifest.provenance, "quantised": commands})
        parts = len(work.networks)
        stages = {f"making {name}": COSTS["format"] * parts for name in request.derived}
        stages |= {f"measuring {name}": COSTS["quality"] for name in (REFERENCE, *request.derived)}
        work.plan_stages(**stages, **{"building engines": COSTS["plan"] * len(request.plans) * parts, "writing": COSTS["write"]})
        convert_all(work)
        evaluate_formats(work, samples or int(work.quality.get(REFERENCE, {}).get("n", SAMPLES)))
        build_engines(work)
        if default:
            work.manifest = replace(work.manifest, default_format=next(iter(request.formats)))
        work.start("writing")
        made = _write(work, final, exchange, packed=path.is_file())
        work.clock.finish()
    return made


def _check(path: Path, manifest: Manifest) -> None:
    require_version(path, manifest)
    lacking = [name for name, component in manifest.components.items() if REFERENCE not in component.formats]
    if lacking:
        raise AigcEdgeError(
            f"{path} holds no {REFERENCE} network of {', '.join(lacking)}, from which formats are made: compile it with "
            f"--format {REFERENCE} too"
        )


def _load(work: Work, manifest: Manifest, folder: Path) -> None:
    """The state that compiling the bundle ended in."""
    work.manifest, work.components = manifest, dict(manifest.components)
    work.programs = dict(manifest.programs)
    work.default_program = manifest.default_program
    work.quality = {name: dict(figures) for name, figures in manifest.quality.items()}
    work.prompts = manifest.text.prompts if manifest.text else ()
    new, stale = set(work.request.formats), set()
    for name, part in work.networks.items():
        formats = {format: files for format, files in part.formats.items() if format not in new}
        stale |= {file for plan in part.engines if plan.format in new for file in (plan.file, plan.report)}
        work.components[name] = replace(part, formats=formats, engines=tuple(p for p in part.engines if p.format not in new))
    networks = {name for name in manifest.files if name.endswith((".onnx", ".onnx.data")) and not name.startswith("judge/")}
    for name in networks:
        link(folder / name, work.folder / name)
    work.files = {name: folder / name for name in manifest.files if name not in networks | stale}
    work.constants = Constants.load(Files(work.folder), work.components.get(SCHEDULE))
    card = folder / "quality.json"
    if card.is_file():
        detail = json.loads(card.read_text(encoding="utf-8"))
        work.details = {name: figures.get("compression", {}) for name, figures in detail.items()}
    if manifest.judge:
        use_judge(work, (folder / manifest.judge.classifier).parent)


def _write(work: Work, out: Path, overwrite: bool, *, packed: bool) -> Manifest:
    files = work.files | work.network_files(list(work.components[work.main].formats))
    return write_bundle(out, work.whole_manifest(out.stem), files, overwrite=overwrite, packed=packed)
