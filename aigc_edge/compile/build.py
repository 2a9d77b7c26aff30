"""Build the TensorRT plans of a bundle, for this machine's GPU or for named cards, and add them to the bundle."""

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
from aigc_edge.engines.plans.module import module_version
from aigc_edge.engines.plans.options import BuildOptions
from aigc_edge.engines.plans.plan import BATCHES, PlanRequest, TensorRTPlan, build_plan, shapes_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import check_output

SECONDS = 3600.0  # a device is slower than the machine that compiles


@dataclass(frozen=True)
class BuildResult:
    """The new manifest, and its plans by "component format target": built, already up to date, or skipped for a reason."""

    manifest: Manifest
    built: tuple[str, ...]
    up_to_date: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _PlanKey:
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
) -> BuildResult:
    """Build the plans of the bundle (a folder or one file) and add them, with their reports, to it or to a copy at `out`.

    `targets` are GPU targets by name, or "auto" for the GPU of this machine; `formats` are formats of the bundle (None: all that
    the target runs; those that fail to build are then skipped, unless all do). A plan that was already built by the installed
    version with the same options is not rebuilt unless `force`. `seconds` and `memory_gb` limit each build. Raises
    AigcEdgeError; the bundle is then unchanged, and finished plans stay in the plan cache.
    """
    path, chosen = Path(bundle), options or BuildOptions()
    final = None if out is None else Path(out)
    check_output(final or path, overwrite=overwrite or final is None)
    opened = Bundle.open(path, verify=True)
    manifest = opened.manifest
    plans, skipped = _select(path, manifest, build_targets(targets), formats)
    components = dict(manifest.components)
    up_to_date = [] if force else [p for p in plans if _is_up_to_date(components[p.part], p, chosen, batches)]
    todo = [plan for plan in plans if plan not in up_to_date]
    clock = Clock({"building engines": 10.0 * len(todo), "writing": 1.0}, progress)
    if not todo and final is None:
        clock.finish()
        return BuildResult(manifest, (), tuple(map(str, up_to_date)), tuple(skipped))
    with opened.extract(beside=True) as folder:
        clock.start("building engines")
        files: dict[str, Path | bytes] = {}
        failed: dict[_PlanKey, AigcEdgeError] = {}
        for index, one in enumerate(todo):
            component = components[one.part]
            shapes = shapes_of(component.onnx, manifest.sizes, batches)
            request = replace(_request(folder, component, one, chosen, batches), shapes=shapes)
            waiting = share_of(index, len(todo), clock.advance)
            limits = {"memory_gb": memory_gb, "cache_gb": cache_gb, "seconds": seconds}
            try:
                plan = build_plan(request, force=force, waiting=waiting, **limits)  # type: ignore[arg-type]
            except AigcEdgeError as error:  # a format that was not requested by name must not fail the others
                if formats is not None:
                    raise
                failed[one] = error
                continue
            components[one.part], added = _enter(component, one, plan)
            files |= added
        todo = [one for one in todo if one not in failed]
        if failed and not todo and not up_to_date:
            raise next(iter(failed.values()))
        skipped += [f"{one} ({error})" for one, error in failed.items()]
        clock.start("writing")
        used = {plan.file for component in components.values() for plan in component.engines}
        before = [plan for component in manifest.components.values() for plan in component.engines]
        gone = {name for plan in before if plan.file not in used for name in (plan.file, plan.report)}
        amended = _with_targets(manifest, [one.target.name for one in todo + up_to_date])._replace(components=components)
        options_of_writing: dict[str, Any] = {"out": final, "overwrite": overwrite or final is None, "folder": folder}
        written = opened.amend(amended, files=files, remove=gone, **options_of_writing)
    clock.finish()
    return BuildResult(written.manifest, tuple(map(str, todo)), tuple(map(str, up_to_date)), tuple(skipped))


def _request(
    folder: Path, component: Component, one: _PlanKey, options: BuildOptions, batches: tuple[int, int, int]
) -> PlanRequest:
    target = one.target
    device = "" if options.hardware_compatibility != "none" else target.device
    model = folder / component.file(one.format, "tensorrt")
    return PlanRequest(model, made_as(model.name, one.format), target.sm, target.name, target.module, batches, device, options)


def _enter(component: Component, one: _PlanKey, plan: TensorRTPlan) -> tuple[Component, dict[str, Path | bytes]]:
    """The component with the plan added to its engines, replacing an older one, and the files to store with it."""
    old = [entry for entry in component.engines if _replaced(entry, one)]
    rest = [entry for entry in component.engines if entry not in old]
    file = old[0].file if old else _name(one, {entry.file for entry in rest})
    names = dict.fromkeys([*(entry.target for entry in old), one.target.name])  # cards of one capability share a plan
    new = [plan_entry(plan, file, name, one.format) for name in names]
    return component._replace(engines=(*rest, *new)), {file: plan.file, new[0].report: sidecar(plan)}


def _select(
    path: Path, manifest: Manifest, targets: list[BuildTarget], formats: Sequence[str] | None
) -> tuple[list[_PlanKey], list[str]]:
    """The plans to build, and those skipped because the target does not run the format."""
    known = sorted({name for component in manifest.networks.values() for name in component.formats})
    unknown = [name for name in formats or () if name not in known]
    if unknown:
        raise AigcEdgeError(f"{path} has no format {', '.join(unknown)}: it has {', '.join(known)}")
    plans, skipped = [], []
    for target in targets:
        for name in dict.fromkeys(formats or known):
            if formats is None and not target.runs(name):
                skipped.append(f"{name} {target.name} (the target does not run it)")
                continue
            plans += [_PlanKey(part, name, target) for part, component in manifest.networks.items() if name in component.formats]
    if not plans:
        names = ", ".join(target.name for target in targets)
        raise AigcEdgeError(f"{path} has no format that runs on {names}: it has {', '.join(known)}; compile it with another")
    return plans, skipped


def _replaced(entry: PlanEntry, one: _PlanKey) -> bool:
    """Whether a new plan replaces an entry: same format, capability, module and GPU, whatever its version."""
    same = (entry.format, entry.sm, entry.module) == (one.format, one.target.sm, one.target.module)
    return same and entry.device in ("", one.target.device)


def _is_up_to_date(component: Component, one: _PlanKey, options: BuildOptions, batches: tuple[int, int, int]) -> bool:
    installed = f"{one.target.module} {module_version(one.target.module)}"
    return any(
        _replaced(entry, one)
        and (entry.target, entry.built_with) == (one.target.name, installed)
        and (entry.options, entry.batches) == (options.non_default, batches)
        for entry in component.engines
    )


def _name(one: _PlanKey, taken: set[str]) -> str:
    stem = f"engines/{one.part}.{one.format}.{one.target.name}"
    return f"{stem}.plan" if f"{stem}.plan" not in taken else f"{stem}.{one.target.module}.plan"


def _with_targets(manifest: Manifest, names: list[str]) -> Manifest:
    """The manifest after plans for the targets `names` were added."""
    notes = tuple(note for note in manifest.notes if not note.startswith(tuple(f"{name}: its engine" for name in names)))
    return manifest._replace(targets=tuple(dict.fromkeys([*manifest.targets, *names])), notes=notes)
