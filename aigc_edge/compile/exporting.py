"""Export a source as float32 components: every network checked against torch, with its schedule split off."""

from __future__ import annotations

import functools
import gc
import json
from pathlib import Path
from typing import Any

from aigc_edge.bundle.component import DECODER, SCHEDULE, Component, ConstantTable, Weights
from aigc_edge.bundle.manifest import CalibrationEntry, Manifest, TextEntry, TokenizerEntry
from aigc_edge.bundle.provenance import created, tools
from aigc_edge.bundle.storage import Files
from aigc_edge.compile.conditions import store
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.state import CompileState
from aigc_edge.engines.constants import Constants
from aigc_edge.export.receptive_field import receptive_field
from aigc_edge.hardware import return_memory
from aigc_edge.sources.base import Source, SourceComponent


def describe(state: CompileState, source: Source) -> None:
    """Fill the manifest's entries that follow from the source."""
    request = state.request
    on_device = [target.name for target in request.targets if target.flavour == "tensorrt"]
    names = list(source.class_names) or [str(i) for i in range(source.num_classes)]
    text = None
    if source.text is not None:
        state.prompts = source.text.prompts
        encoders = {}
        for name, tokens in source.text.encoders.items():
            file = f"tokenizer/{name}.json"
            state.files[file] = tokens.tokenizer
            encoders[name] = TokenizerEntry(file, tokens.length, tokens.pad)
        text = TextEntry(encoders, source.text.negative, tuple(source.text.prompts))
    state.manifest = Manifest(
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
        calibration=CalibrationEntry(str(source.inputs), {}),
        created=created(),
    )
    state.inputs = source.inputs
    store(state, source.conditions, source.negative)


def _shapes(source: Source) -> dict[str, Any]:
    """The image sizes, and the shapes that depend on them."""
    if not source.sizes:
        return {"sample_shape": tuple(source.sample_shape), "output_shape": tuple(source.output_shape)}
    specs = {part.spec.name: part.spec for part in source.components()}
    first, last = specs.get("denoiser") or specs["decoder"], specs.get("decoder") or specs["denoiser"]
    sample = next(tensor for tensor in first.inputs if tensor.role == "sample")
    return {"sizes": tuple(source.sizes), "sample_shape": sample.shape[1:], "output_shape": last.outputs[0].shape[1:]}


def export(state: CompileState, source: Source, *, weights: bool, schedule_constants: bool) -> None:
    """Export every component to ONNX, checked against torch, one in memory at a time; `weights` adds the torch weights."""
    state.start("exporting")
    parts, config = source.components(), source.model_config()
    for index, part in enumerate(parts):
        name = part.spec.name
        split = name == "denoiser" and schedule_constants
        identity = source.identity(name)
        key = None if identity is None else [identity, bool(weights and config), split, list(getattr(part, "sizes", ()))]

        def export_part(folder: Path, part: SourceComponent = part, split: bool = split) -> dict[str, Any]:
            return _export_part(folder, part, config if weights else None, split)

        stage_folder, report, _ = state.stages.get_or_create(f"export {name}", key, export_part)
        part.release()
        gc.collect()
        return_memory()
        state.components |= {key: Component.from_json(key, entry) for key, entry in report["components"].items()}
        for file in report["networks"]:
            state.add_file(stage_folder, file)
        for file in report["files"]:
            state.files[file] = stage_folder / file
        state.advance(index + 1, len(parts))
    state.constants = Constants.load(Files(state.folder), state.components.get(SCHEDULE))


def tabulate(state: CompileState) -> None:
    """Store the schedule's constants at every timestep of the programs in the bundle."""
    if state.constants is None:
        return
    table, times = f"schedule.{REFERENCE}.table", [row.timestep for p in state.programs.values() for row in p.rows]
    state.files[table], timesteps = state.constants.table(times)
    state.components[SCHEDULE] = state.components[SCHEDULE]._replace(table=ConstantTable(table, tuple(timesteps)))


def _export_part(folder: Path, part: SourceComponent, config: dict[str, Any] | None, split: bool) -> dict[str, Any]:
    name = part.spec.name
    file, files = f"{name}.{REFERENCE}.onnx", []
    whole = folder / "whole"
    figures = part.write(whole / file)
    component = Component(part.spec, {REFERENCE: {"file": file}})
    if config is not None:
        from safetensors.torch import save_file

        copy = f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in part.module.state_dict().items()}, folder / copy)
        component = component._replace(weights=Weights(copy, config))
        files.append(copy)
    components, networks = [component], [file]
    if split:
        components, networks = _split(folder, part, component, whole / file)
    if name == DECODER:
        field = receptive_field(whole / file, part.spec, next(iter(getattr(part, "sizes", ())), None))
        components = [component._replace(receptive_field=field)]
    if file in networks and not (folder / file).exists():
        for path in whole.glob(f"{file}*"):  # a huge model has its weights in a second file
            path.replace(folder / path.name)
    for path in whole.iterdir():
        path.unlink()
    whole.rmdir()
    entries = {each.name: each.to_json() for each in components}
    return {"components": entries, "networks": networks, "files": files, "export": json.loads(json.dumps(figures))}


def _split(folder: Path, part: SourceComponent, component: Component, whole: Path) -> tuple[list[Component], list[str]]:
    """Split the schedule off the denoiser, as a component of its own that is evaluated once per timestep of the programs."""
    from aigc_edge.export.split import Split, export_split

    name, file = component.file(REFERENCE), f"{SCHEDULE}.{REFERENCE}.onnx"
    split = export_split(part, whole, folder / name, folder / file, compare=functools.partial(part.compare, whole))
    if not isinstance(split, Split):
        return [component._replace(schedule_constants={"operators": 0, "reason": split})], [name]
    return list(split.components(component, file)), [name, file]
