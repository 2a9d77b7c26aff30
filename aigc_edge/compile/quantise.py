"""Add formats to an existing bundle, converted from its own float32 networks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from aigc_edge.bundle.bundle import Bundle, require_version
from aigc_edge.bundle.component import SCHEDULE
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.references import check_references
from aigc_edge.bundle.storage import Files
from aigc_edge.bundle.write import write_bundle
from aigc_edge.clock import Progress
from aigc_edge.compile.command import command_line
from aigc_edge.compile.compressing import convert_all
from aigc_edge.compile.conditions import load_inputs
from aigc_edge.compile.engines import build_engines
from aigc_edge.compile.evaluation import evaluate_formats
from aigc_edge.compile.judging import use_judge
from aigc_edge.compile.output_range import check_output_range
from aigc_edge.compile.request import REFERENCE, CompileRequest
from aigc_edge.compile.state import CompileState, link, open_workspace, raise_failed
from aigc_edge.compress.budget import Budget
from aigc_edge.engines.constants import Constants
from aigc_edge.errors import AigcEdgeError, BudgetError
from aigc_edge.files import check_output

SAMPLES = 64  # per format, if the bundle does not record how many samples it was evaluated on


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
    """Add `formats` to the bundle (a folder or one file), or to a copy of it at `out`, and return the new manifest.

    They are converted from its fp32 networks with its default program and evaluated as in `compile_source`, on `samples` images
    (None: as many as fp32 was). `targets` default to those of the bundle; `default` makes the first of the formats the bundle's
    default. Formats that the bundle already has, and an existing `out`, are replaced only with `overwrite`. After an
    interruption the same call resumes. Raises AigcEdgeError for errors that the caller can fix; the bundle is then unchanged,
    except that formats which reach the budget are added before BudgetError is raised for the others.
    """
    path = Path(bundle)
    opened = Bundle.open(path, verify=True)
    manifest = opened.manifest
    _check(path, manifest)
    devices = list(targets) if targets is not None else list(manifest.targets) or ["x86-cpu"]
    final, exchange = Path(out or path), overwrite or out is None
    request = CompileRequest.parse(formats, devices, budget, samples=samples, seed=seed, threads=threads)
    check_output(final, overwrite=exchange)
    existing = [name for name in request.formats if name in manifest.main.formats]
    if existing and not overwrite:
        raise AigcEdgeError(f"{path} already has {', '.join(existing)}: ask to overwrite it, or leave it out")
    if REFERENCE in existing:
        raise AigcEdgeError(f"{REFERENCE} is what the other formats are converted from: leave it out")
    if request.budget.frechet is not None and manifest.judge is None:
        raise AigcEdgeError(f"a Fréchet distance was requested, but {path} has no judge: compile it with --data, or use psnr=…")
    with open_workspace(request, progress) as state, opened.extract(beside=True) as folder:
        _load(state, manifest, folder)
        arguments = {
            "format": formats,
            "target": targets,
            "budget": request.budget.words,
            "samples": samples,
            "seed": seed or None,
        }
        commands = [*state.manifest.provenance.get("quantised", ()), command_line("quantise", path.name, arguments)]
        state.manifest = state.manifest._replace(provenance={**state.manifest.provenance, "quantised": commands})
        state.plan_stages(len(state.networks), {}, {})
        check_output_range(state)
        convert_all(state)
        evaluate_formats(state, samples or int(state.quality.get(REFERENCE, {}).get("n", SAMPLES)))
        if any(name in existing for name in state.failed):  # the bundle keeps what it has
            raise BudgetError("; ".join(state.failed.values()))
        build_engines(state)
        chosen = next(iter(state.request.formats)) if default else manifest.default_format
        state.manifest = state.manifest._replace(default_format=chosen)
        state.start("writing")
        written = _write(state, final, exchange, packed=path.is_file())
        state.clock.finish()
    raise_failed(state, final)
    return written


def _check(path: Path, manifest: Manifest) -> None:
    require_version(path, manifest)
    missing = [name for name, component in manifest.components.items() if REFERENCE not in component.formats]
    if missing:
        raise AigcEdgeError(
            f"{path} has no {REFERENCE} network of {', '.join(missing)}, from which formats are converted: compile it with "
            f"--format {REFERENCE} too"
        )


def _load(state: CompileState, manifest: Manifest, folder: Path) -> None:
    """Restore the state in which compiling the bundle ended."""
    state.manifest, state.components = manifest, dict(manifest.components)
    state.programs = dict(manifest.programs)
    state.default_program = manifest.default_program
    state.quality = {name: dict(figures) for name, figures in manifest.quality.items()}
    state.prompts = manifest.text.prompts if manifest.text else ()
    new, stale = set(state.request.formats), set()
    for name, part in state.networks.items():
        formats = {format: files for format, files in part.formats.items() if format not in new}
        stale |= {file for plan in part.engines if plan.format in new for file in (plan.file, plan.report)}
        state.components[name] = part._replace(formats=formats, engines=tuple(p for p in part.engines if p.format not in new))
    networks = {name for name in manifest.files if name.endswith((".onnx", ".onnx.data")) and not name.startswith("judge/")}
    for name in networks:
        if name.endswith(".onnx"):
            check_references(folder / name, f"{name}.data" if f"{name}.data" in networks else None, f"{name} of the bundle")
        link(folder / name, state.folder / name)
    state.files = {name: folder / name for name in manifest.files if name not in networks | stale}
    state.inputs = load_inputs(state)
    state.constants = Constants.load(Files(state.folder), state.components.get(SCHEDULE))
    card = folder / "quality.json"
    if card.is_file():
        detail = json.loads(card.read_text(encoding="utf-8"))
        state.details = {name: figures.get("compression", {}) for name, figures in detail.items()}
    if manifest.judge:
        use_judge(state, (folder / manifest.judge.classifier).parent)


def _write(state: CompileState, out: Path, overwrite: bool, *, packed: bool) -> Manifest:
    files = state.files | state.network_files(list(state.components[state.main].formats))
    return write_bundle(out, state.whole_manifest(out.stem), files, overwrite=overwrite, packed=packed)
