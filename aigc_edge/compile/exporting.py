"""From a source to components in float32: every network exported and checked, its schedule taken out, its programs made."""

from __future__ import annotations

import functools
import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_edge.bundle.component import SCHEDULE, Component, ConstantTable, Weights
from aigc_edge.bundle.manifest import Manifest, TextEntry, TokenizerEntry
from aigc_edge.bundle.parsing import Value
from aigc_edge.bundle.provenance import created, tools
from aigc_edge.bundle.storage import Files
from aigc_edge.compile.conditions import store
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.work import Work
from aigc_edge.engines.constants import Constants
from aigc_edge.hardware import return_memory
from aigc_edge.sources.base import Part, Source


def describe(work: Work, source: Source) -> None:
    """The manifest's entries that the source itself says."""
    request = work.request
    on_device = [target.name for target in request.targets if target.flavour == "tensorrt"]
    names = list(source.class_names) or [str(i) for i in range(source.num_classes)]
    text = None
    if source.text is not None:
        work.prompts = source.text.prompts
        encoders = {}
        for name, tokens in source.text.encoders.items():
            file = f"tokenizer/{name}.json"
            work.files[file] = tokens.tokenizer
            encoders[name] = TokenizerEntry(file, tokens.length, tokens.pad)
        text = TextEntry(encoders, source.text.negative, tuple(source.text.prompts))
    work.manifest = Manifest(
        family=source.family,
        **_shapes(source),
        output_range=source.output_range,
        num_classes=source.num_classes,
        class_names=tuple(names),
        schedule=source.schedule,
        default_format=next(iter(request.formats)),
        targets=tuple(target.name for target in request.targets),
        notes=tuple(
            f"{target}: its engine is built on the device, from the ONNX file, by 'aigc-edge build' or when first used there"
            for target in on_device
        ),
        text=text,
        tools=tools(),
        provenance=source.provenance(),
        created=created(),
    )
    store(work, source.conditions, source.negative)


def _shapes(source: Source) -> dict[str, Any]:
    """The sizes of the images, and the shapes that follow them."""
    if not source.sizes:
        return {"sample_shape": tuple(source.sample_shape), "output_shape": tuple(source.output_shape)}
    specs = {part.spec.name: part.spec for part in source.parts()}
    first, last = specs.get("denoiser") or specs["decoder"], specs.get("decoder") or specs["denoiser"]
    sample = next(tensor for tensor in first.inputs if tensor.role == "sample")
    return {"sizes": tuple(source.sizes), "sample_shape": sample.shape[1:], "output_shape": last.outputs[0].shape[1:]}


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
        work.components |= {key: Component.parse(key, Value(entry, key)) for key, entry in report["components"].items()}
        for file in report["networks"]:
            work.take(place, file)
        for file in report["files"]:
            work.files[file] = place / file
        work.tell(index + 1, len(parts))
    work.constants = Constants.load(Files(work.folder), work.components.get(SCHEDULE))


def tabulate(work: Work) -> None:
    """The schedule's constants at every timestep of the programs, into the bundle."""
    if work.constants is None:
        return
    table, times = f"schedule.{REFERENCE}.table", [row.timestep for p in work.programs.values() for row in p.rows]
    work.files[table], timesteps = work.constants.table(times)
    work.components[SCHEDULE] = replace(work.components[SCHEDULE], table=ConstantTable(table, tuple(timesteps)))


def _export_part(folder: Path, part: Part, config: dict[str, Any] | None, taken_out: bool) -> dict[str, Any]:
    name = part.spec.name
    file, files = f"{name}.{REFERENCE}.onnx", []
    whole = folder / "whole"
    figures = part.write(whole / file)
    component = Component(part.spec, {REFERENCE: {"file": file}})
    if config is not None:
        from safetensors.torch import save_file

        copy = f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in part.module.state_dict().items()}, folder / copy)
        component = replace(component, weights=Weights(copy, config))
        files.append(copy)
    components, networks = [component], [file]
    if taken_out:
        components, networks = _split(folder, part, component, whole / file)
    if file in networks and not (folder / file).exists():
        for made in whole.glob(f"{file}*"):  # the weights of a huge model are in a second file
            made.replace(folder / made.name)
    for left in whole.iterdir():
        left.unlink()
    whole.rmdir()
    entries = {each.name: each.to_json() for each in components}
    return {"components": entries, "networks": networks, "files": files, "export": json.loads(json.dumps(figures))}


def _split(folder: Path, part: Part, component: Component, whole: Path) -> tuple[list[Component], list[str]]:
    """Take the schedule out of the denoiser: a component of its own, evaluated for every timestep of the programs."""
    from aigc_edge.export.split import Split, export_split

    name, file = component.file(REFERENCE), f"{SCHEDULE}.{REFERENCE}.onnx"
    split = export_split(part, whole, folder / name, folder / file, compare=functools.partial(part.compare, whole))
    if not isinstance(split, Split):
        return [replace(component, schedule_constants={"operators": 0, "reason": split})], [name]
    return list(split.components(component, file)), [name, file]
