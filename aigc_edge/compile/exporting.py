"""From a source to components in float32: every network exported and checked, its schedule taken out, its programs made."""

from __future__ import annotations

import functools
import gc
import json
from pathlib import Path
from typing import Any

from aigc_edge.bundle.provenance import created, tools
from aigc_edge.compile.conditions import store
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.work import Work
from aigc_edge.engines.constants import SCHEDULE, Constants
from aigc_edge.hardware import return_memory
from aigc_edge.sources.base import Part, Source


def describe(work: Work, source: Source) -> None:
    """The manifest's entries that the source itself says."""
    request = work.request
    on_device = [target.name for target in request.targets if target.flavour == "tensorrt"]
    names = list(source.class_names) or [str(i) for i in range(source.num_classes)]
    work.manifest = {
        "family": source.family,
        "sample_shape": list(source.sample_shape),
        "output_shape": list(source.output_shape),
        **_sizes(source),
        "output_range": list(source.output_range),
        "classes": {"count": source.num_classes, "names": names} if source.num_classes else None,
        "schedule": None if source.schedule is None else dict(source.schedule),
        "default_format": next(iter(request.formats)),
        "targets": [target.name for target in request.targets],
        "notes": [
            f"{target}: its engine is built on the device, from the ONNX file, by 'aigc-edge build' or when first used there"
            for target in on_device
        ],
        "judge": None,
        "tools": tools(),
        "provenance": source.provenance(),
        "created": created(),
    }
    if source.text is not None:
        work.prompts = source.text.prompts
        encoders: dict[str, Any] = {}
        for name, tokens in source.text.encoders.items():
            file = f"tokenizer/{name}.json"
            work.files[file] = tokens.tokenizer
            encoders[name] = {"tokenizer": file, "length": tokens.length, "pad": tokens.pad}
        prompts = list(source.text.prompts)
        work.manifest["text"] = {"encoders": encoders, "negative": source.text.negative, "prompts": prompts}
    store(work, source.conditions, source.negative)


def _sizes(source: Source) -> dict[str, Any]:
    """What the manifest says of several sizes: which there are, and the shapes that follow them."""
    if not source.sizes:
        return {}
    specs = {part.spec.name: part.spec for part in source.parts()}
    first, last = specs.get("denoiser") or specs["decoder"], specs.get("decoder") or specs["denoiser"]
    sample = next(tensor for tensor in first.inputs if tensor.role == "sample")
    shapes = {"sample_shape": list(sample.shape[1:]), "output_shape": list(last.outputs[0].shape[1:])}
    return {"sizes": [list(size) for size in source.sizes], **shapes}


def export(work: Work, source: Source, *, weights: bool, schedule_constants: bool) -> None:
    """Every component as ONNX, checked against torch, one in memory at a time; with `weights` what the torch engine loads."""
    work.start("exporting")
    parts, config = source.parts(), source.model_config()
    for index, part in enumerate(parts):
        name = part.spec.name
        taken_out = name == "denoiser" and schedule_constants
        identity = source.identity(name)
        key = None if identity is None else [identity, bool(weights and config), taken_out, list(getattr(part, "sizes", ()))]

        def make(folder: Path, part: Part = part, taken_out: bool = taken_out) -> dict[str, Any]:
            return _export_part(folder, part, config if weights else None, taken_out)

        place, report, _ = work.steps.once(f"export {name}", key, make)
        part.release()
        gc.collect()
        return_memory()
        work.components |= report["components"]
        for file in report["networks"]:
            work.take(place, file)
        for file in report["files"]:
            work.files[file] = place / file
        work.tell(index + 1, len(parts))
    if SCHEDULE in work.components:
        work.constants = Constants.load(work.folder, work.components)


def tabulate(work: Work) -> None:
    """The schedule's constants at every timestep of the programs, into the bundle."""
    if work.constants is None:
        return
    table, times = f"schedule.{REFERENCE}.table", [row.timestep for p in work.programs.values() for row in p.rows]
    work.files[table], timesteps = work.constants.table(times)
    work.components[SCHEDULE]["table"] = {"file": table, "timesteps": timesteps}


def _export_part(folder: Path, part: Part, config: dict[str, Any] | None, taken_out: bool) -> dict[str, Any]:
    name = part.spec.name
    file, files = f"{name}.{REFERENCE}.onnx", []
    whole = folder / "whole"
    figures = part.write(whole / file)
    entry = part.spec.to_json() | {"formats": {REFERENCE: {"file": file}}, "engines": []}
    if config is not None:
        from safetensors.torch import save_file

        copy = f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in part.module.state_dict().items()}, folder / copy)
        entry["weights"] = {"file": copy, "model": config}
        files.append(copy)
    components, networks = {name: entry}, [file]
    if taken_out:
        components, networks = _split(folder, part, entry, whole / file)
    if file in networks and not (folder / file).exists():
        for made in whole.glob(f"{file}*"):  # the weights of a huge model are in a second file
            made.replace(folder / made.name)
    for left in whole.iterdir():
        left.unlink()
    whole.rmdir()
    return {"components": components, "networks": networks, "files": files, "export": json.loads(json.dumps(figures))}


def _split(folder: Path, part: Part, entry: dict[str, Any], whole: Path) -> tuple[dict[str, Any], list[str]]:
    """Take the schedule out of the denoiser: a component of its own, evaluated for every timestep of the programs."""
    from aigc_edge.export.split import Split, export_split

    name, file = entry["formats"][REFERENCE]["file"], f"{SCHEDULE}.{REFERENCE}.onnx"
    split = export_split(part, whole, folder / name, folder / file, compare=functools.partial(part.compare, whole))
    if not isinstance(split, Split):
        return {"denoiser": entry | {"schedule_constants": {"operators": 0, "reason": split}}}, [name]
    denoiser, schedule = split.entries(part.spec, entry, file)
    return {"denoiser": denoiser, SCHEDULE: schedule}, [name, file]
