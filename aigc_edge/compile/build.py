"""Finishes a bundle: builds the plans for this machine's GPU, or for named cards, and puts them into the bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component, PlanEntry
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.clock import Clock, Progress
from aigc_edge.compile.build_targets import AUTO, BuildTarget, build_targets
from aigc_edge.compile.engines import plan_entry, share_of, sidecar
from aigc_edge.engines.base import made_as
from aigc_edge.engines.tensorrt_options import BuildOptions
from aigc_edge.engines.tensorrt_plan import BATCHES, PlanRequest, TensorRTPlan, build_plan, module_version, shapes_of
from aigc_edge.errors import AigcEdgeError

SECONDS = 3600.0  # a device is slower than the machine that compiles


@dataclass(frozen=True)
class Built:
    """The manifest, and what was done of it: plans as "component format target", those left out with the reason."""

    manifest: Manifest
    made: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Wanted:
    part: str
    format: str
    target: BuildTarget

    def __str__(self) -> str:
        return f"{self.part} {self.format} {self.target.name}"


def build_bundle(
    bundle: str | os.PathLike[str],
    *,
    targets: Sequence[str] = (AUTO,),
    formats: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    options: BuildOptions | None = None,
    batches: tuple[int, int, int] = BATCHES,
    force: bool = False,
    overwrite: bool = False,
    memory_gb: float | None = None,
    cache_gb: float | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Built:
    """Build the plans of the bundle (a folder or one file) and put them, with their reports, into it, or into a copy at `out`.

    `targets` are GPU targets by name, or "auto" for the GPU of this machine; `formats` those of the bundle (None: all that the
    target runs; one that cannot be built is then left out, unless none can). A plan that is there already, of the installed
    version and with the same options, is kept unless `force`. `seconds` and `memory_gb` limit each build. Raises
    AigcEdgeError; the bundle is then as it was, and plans that were finished are found again in the cache.
    """
    path, chosen = Path(bundle), options or BuildOptions()
    final = None if out is None else Path(out)
    if final is not None and final.exists() and not overwrite:
        raise AigcEdgeError(f"{final} already exists: give another name or ask to overwrite it")
    opened = Bundle.open(path, verify=True)
    manifest = opened.manifest
    wanted, left_out = _wanted(path, manifest, build_targets(targets), formats)
    components = dict(manifest.components)
    kept = [] if force else [w for w in wanted if _there(components[w.part], w, chosen, batches)]
    todo = [w for w in wanted if w not in kept]
    clock = Clock({"building engines": 10.0 * len(todo), "writing": 1.0}, progress)
    if not todo and final is None:
        clock.finish()
        return Built(manifest, (), tuple(map(str, kept)), tuple(left_out))
    with opened.extract(beside=True) as folder:
        clock.start("building engines")
        files: dict[str, Path | bytes] = {}
        failed: dict[_Wanted, AigcEdgeError] = {}
        for index, one in enumerate(todo):
            component = components[one.part]
            shapes = shapes_of(component.onnx, manifest.sizes, batches)
            request = replace(_request(folder, component, one, chosen, batches), shapes=shapes)
            waiting = share_of(index, len(todo), clock.advance)
            limits = {"memory_gb": memory_gb, "cache_gb": cache_gb, "seconds": seconds}
            try:
                plan = build_plan(request, force=force, waiting=waiting, **limits)  # type: ignore[arg-type]
            except AigcEdgeError as error:  # what was not asked for by name must not spoil the rest
                if formats is not None:
                    raise
                failed[one] = error
                continue
            components[one.part], added = _enter(component, one, plan)
            files |= added
        todo = [one for one in todo if one not in failed]
        if failed and not todo and not kept:
            raise next(iter(failed.values()))
        left_out += [f"{one} ({error})" for one, error in failed.items()]
        clock.start("writing")
        used = {plan.file for component in components.values() for plan in component.engines}
        before = [plan for component in manifest.components.values() for plan in component.engines]
        gone = {name for plan in before if plan.file not in used for name in (plan.file, plan.report)}
        amended = replace(_with_targets(manifest, [one.target.name for one in todo + kept]), components=components)
        options_of_writing: dict[str, Any] = {"out": final, "overwrite": overwrite or final is None, "folder": folder}
        written = opened.amend(amended, files=files, remove=gone, **options_of_writing)
    clock.finish()
    return Built(written.manifest, tuple(map(str, todo)), tuple(map(str, kept)), tuple(left_out))


def _request(
    folder: Path, component: Component, one: _Wanted, options: BuildOptions, batches: tuple[int, int, int]
) -> PlanRequest:
    place = one.target
    device = "" if options.hardware_compatibility != "none" else place.device
    model = folder / component.file(one.format, "tensorrt")
    return PlanRequest(model, made_as(model.name, one.format), place.sm, place.name, place.module, batches, device, options)


def _enter(component: Component, one: _Wanted, plan: TensorRTPlan) -> tuple[Component, dict[str, Path | bytes]]:
    """The component with the plan among its engines, in the place of what it replaces; the files that come with it."""
    old = [entry for entry in component.engines if _replaced(entry, one)]
    rest = [entry for entry in component.engines if entry not in old]
    file = old[0].file if old else _name(one, {entry.file for entry in rest})
    names = dict.fromkeys([*(entry.target for entry in old), one.target.name])  # cards of one capability share a plan
    new = [plan_entry(plan, file, name, one.format) for name in names]
    return replace(component, engines=(*rest, *new)), {file: plan.file, new[0].report: sidecar(plan)}


def _wanted(
    path: Path, manifest: Manifest, where: list[BuildTarget], formats: Sequence[str] | None
) -> tuple[list[_Wanted], list[str]]:
    """What to build, and what was left out because the target does not run the format."""
    known = sorted({name for component in manifest.networks.values() for name in component.formats})
    unknown = [name for name in formats or () if name not in known]
    if unknown:
        raise AigcEdgeError(f"{path} has no format {', '.join(unknown)}: it has {', '.join(known)}")
    found, left_out = [], []
    for target in where:
        for name in dict.fromkeys(formats or known):
            if formats is None and not target.runs(name):
                left_out.append(f"{name} {target.name} (it does not run there)")
                continue
            found += [_Wanted(part, name, target) for part, component in manifest.networks.items() if name in component.formats]
    if not found:
        names = ", ".join(target.name for target in where)
        raise AigcEdgeError(f"{path} has no format that runs on {names}: it has {', '.join(known)}; compile it with another")
    return found, left_out


def _replaced(entry: PlanEntry, one: _Wanted) -> bool:
    """Whether the plan of an entry gives way to a new one: same format, capability, module and GPU, whatever its version."""
    same = (entry.format, entry.sm, entry.module) == (one.format, one.target.sm, one.target.module)
    return same and entry.device in ("", one.target.device)


def _there(component: Component, one: _Wanted, options: BuildOptions, batches: tuple[int, int, int]) -> bool:
    have = f"{one.target.module} {module_version(one.target.module)}"
    return any(
        _replaced(entry, one)
        and (entry.target, entry.built_with) == (one.target.name, have)
        and (entry.options, entry.batches) == (options.non_default, batches)
        for entry in component.engines
    )


def _name(one: _Wanted, taken: set[str]) -> str:
    stem = f"engines/{one.part}.{one.format}.{one.target.name}"
    return f"{stem}.plan" if f"{stem}.plan" not in taken else f"{stem}.{one.target.module}.plan"


def _with_targets(manifest: Manifest, names: list[str]) -> Manifest:
    """The manifest of a bundle that has plans for the targets `names` now."""
    notes = tuple(note for note in manifest.notes if not note.startswith(tuple(f"{name}: its engine" for name in names)))
    return replace(manifest, targets=tuple(dict.fromkeys([*manifest.targets, *names])), notes=notes)
