"""Further formats for a bundle that is already there, from its own float32 networks."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_edge.bundle.amend import unpacked
from aigc_edge.bundle.writer import VERSION, pack, read_manifest, write_bundle
from aigc_edge.clock import Progress
from aigc_edge.compile.command import command_line
from aigc_edge.compile.compressing import convert_all
from aigc_edge.compile.engines import build_engines
from aigc_edge.compile.evaluation import evaluate_formats
from aigc_edge.compile.exporting import SCHEDULE
from aigc_edge.compile.judging import use_judge
from aigc_edge.compile.request import REFERENCE, Request, checked
from aigc_edge.compile.work import COSTS, Work, begun, link
from aigc_edge.compress.budget import Budget
from aigc_edge.diffusion import Program
from aigc_edge.engines.constants import Constants
from aigc_edge.errors import AigcEdgeError

_OWN = ("format", "version", "files", "name", "components", "programs", "default_program", "quality")  # that Work holds
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
) -> dict[str, Any]:
    """Put `formats` into the bundle (a folder or one file), or into a copy of it at `out`, and return its new manifest.

    They are made from its fp32 networks with its default program, and proven as `compile_source` does, on as many samples as fp32
    was unless `samples` says so. `targets` are those of the bundle unless given; `default` makes the first of the formats the
    bundle's default. A format that the bundle has already, and an `out` that exists, are replaced only with `overwrite`.
    Interrupted, the same call goes on. Raises AigcEdgeError for whatever a user can mend; the bundle is then as it was.
    """
    path = Path(bundle)
    manifest = read_manifest(path, verify=True)
    _check(path, manifest)
    asked = list(targets) if targets is not None else list(manifest.get("targets") or ["x86-cpu"])
    final, replace = Path(out or path), overwrite or out is None
    request = checked(final, formats, asked, budget, samples, seed, threads, replace, progress)
    there = [name for name in request.formats if name in manifest["components"][_main(manifest)]["formats"]]
    if there and not overwrite:
        raise AigcEdgeError(f"{path} has {', '.join(there)} already: ask to overwrite it, or leave it out")
    if REFERENCE in there:
        raise AigcEdgeError(f"{REFERENCE} is what the other formats are made from: leave it out")
    if request.budget.frechet is not None and not manifest.get("judge"):
        raise AigcEdgeError(
            f"a Fréchet distance was asked for, but {path} has no judge: compile it with --data, or ask for psnr=…"
        )
    with begun(request) as work, unpacked(path, list(manifest["files"])) as folder:
        _load(work, manifest, folder)
        said = {"format": formats, "target": targets, "budget": request.budget.words, "samples": samples, "seed": seed or None}
        work.manifest["provenance"].setdefault("quantised", []).append(command_line("quantise", path.name, said))
        parts = len(work.networks)
        stages = {f"making {name}": COSTS["format"] * parts for name in request.derived}
        stages |= {f"measuring {name}": COSTS["quality"] for name in (REFERENCE, *request.derived)}
        work.plan_stages(**stages, **{"building engines": COSTS["plan"] * len(request.plans) * parts, "writing": COSTS["write"]})
        convert_all(work)
        evaluate_formats(work, samples or int(work.quality.get(REFERENCE, {}).get("n", SAMPLES)))
        build_engines(work)
        if default:
            work.manifest["default_format"] = next(iter(request.formats))
        work.start("writing")
        made = _write(work, request, path.is_file())
        work.clock.finish()
    return made


def _main(manifest: Mapping[str, Any]) -> str:
    return "denoiser" if "denoiser" in manifest["components"] else "decoder"


def _check(path: Path, manifest: Mapping[str, Any]) -> None:
    if manifest["version"] != VERSION:
        raise AigcEdgeError(f"{path} has the bundle version {manifest['version']}, {VERSION} is written here: compile it again")
    lacking = [name for name, entry in manifest["components"].items() if REFERENCE not in entry["formats"]]
    if lacking:
        raise AigcEdgeError(
            f"{path} holds no {REFERENCE} network of {', '.join(lacking)}, from which formats are made: compile it with "
            f"--format {REFERENCE} too"
        )


def _load(work: Work, manifest: Mapping[str, Any], folder: Path) -> None:
    """The state that compiling the bundle ended in."""
    work.manifest = {key: copy.deepcopy(value) for key, value in manifest.items() if key not in _OWN}
    work.components = copy.deepcopy(manifest["components"])
    work.programs = {name: Program.from_json(value) for name, value in manifest["programs"].items()}
    work.default_program = manifest["default_program"]
    work.quality = dict(manifest.get("quality") or {})
    work.prompts = tuple((manifest.get("text") or {}).get("prompts", ()))
    new, stale = set(work.request.formats), set()
    for entry in work.networks.values():
        entry["formats"] = {name: files for name, files in entry["formats"].items() if name not in new}
        stale |= {e["file"] for e in entry["engines"] if e["format"] in new}
        entry["engines"] = [e for e in entry["engines"] if e["format"] not in new]
    networks = {name for name in manifest["files"] if name.endswith((".onnx", ".onnx.data"))} - {
        name for name in manifest["files"] if name.startswith("judge/")
    }
    for name in networks:
        link(folder / name, work.folder / name)
    stale |= {name.removesuffix("plan") + "json" for name in stale}
    work.files = {name: folder / name for name in manifest["files"] if name not in networks | stale}
    if SCHEDULE in work.components:
        work.constants = Constants.load(work.folder, work.components)
    card = folder / "quality.json"
    if card.is_file():
        detail = json.loads(card.read_text(encoding="utf-8"))
        work.details = {name: figures.get("compression", {}) for name, figures in detail.items()}
    if work.manifest.get("judge"):
        use_judge(work, (folder / work.manifest["judge"]["classifier"]).parent)


def _write(work: Work, request: Request, packed: bool) -> dict[str, Any]:
    formats = list(work.components[work.main]["formats"])
    files = work.files | work.network_files(formats)
    name = request.out.stem
    if not packed:
        return write_bundle(request.out, work.whole_manifest(name), files, overwrite=request.overwrite)
    whole = work.folder / "whole"
    made = write_bundle(whole, work.whole_manifest(name), files)
    pack(whole, request.out, overwrite=request.overwrite)
    return made
