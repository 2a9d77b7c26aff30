"""The output of `aigc-edge inspect`."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aigc_edge import text
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import SCHEDULE
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.sizes import named
from aigc_edge.bundle.spec import TensorSpec
from aigc_edge.bundle.storage import MANIFEST, Storage
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError
from aigc_edge.report import components

WIDTH = 100


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The members of the manifest of the bundle at `path` as they are stored, with "verified" (files) and "total_bytes" added.

    Every file is hashed first. Raises as `Bundle.open` does.
    """
    bundle = Bundle.open(path, verify=True)
    with Storage(bundle.path) as storage:
        stored = json.loads(storage.read(MANIFEST))
    return stored | {"verified": len(bundle.manifest.files), "total_bytes": bundle.manifest.total_bytes}


def program_of(manifest: Manifest, name: str) -> Program:
    """The program called `name`, or the default for "default"; raises AigcEdgeError that lists the known names."""
    chosen = manifest.default_program if name == "default" else name
    if chosen not in manifest.programs:
        raise AigcEdgeError(f"the bundle has no program {name!r}: choose one of {', '.join(sorted(manifest.programs))}")
    return manifest.programs[chosen]


def render(manifest: Manifest) -> str:
    """The description as text for a terminal of 100 columns."""
    parts = [
        _head(manifest),
        _networks(manifest),
        _text(manifest),
        render_engines(manifest),
        _programs(manifest),
        _quality(manifest),
        _components(manifest),
        _provenance(manifest),
    ]
    return "\n\n".join(part for part in parts if part)


def _shape(shape: Any) -> str:
    return "×".join(str(size) for size in shape)


def _head(manifest: Manifest) -> str:
    kind = f"{manifest.num_classes} classes" if manifest.num_classes else _conditions(manifest)
    lines = [
        f"{manifest.name}: {manifest.family}, {kind}, images {_shape(manifest.output_shape)} from latents "
        f"{_shape(manifest.sample_shape)}",
        f"bundle version {manifest.version}, {text.size(manifest.total_bytes)}, "
        f"all {len(manifest.files)} files match their SHA-256",
    ]
    if manifest.sizes:
        first, *others = map(named, manifest.sizes)
        lines.insert(1, f"sizes {first} (default), {', '.join(others)}: H×W in the shapes below, the weights serve all")
    names = manifest.class_names
    if names and list(names) != [str(i) for i in range(len(names))]:
        lines += textwrap.wrap(
            "classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(names)), WIDTH, subsequent_indent="  "
        )
    return "\n".join(lines)


def _conditions(manifest: Manifest) -> str:
    """The conditions of the images if there are no classes."""
    inputs = manifest.denoiser.spec.of_role("condition") if manifest.denoiser else ()
    names = [tensor.name for tensor in inputs]
    return "from prompts" if manifest.text else f"conditions {', '.join(names)}" if names else "unconditional"


def _text(manifest: Manifest) -> str:
    """The tokenizers of the text encoders."""
    if manifest.text is None:
        return ""
    rows = []
    for name, entry in manifest.text.encoders.items():
        rows.append([name, entry.tokenizer, _bytes(manifest, entry.tokenizer), str(entry.length), str(entry.pad)])
    nothing = 'conditions of ""' if manifest.text.negative == "encode" else "zeros"
    header = ["encoder", "tokenizer", "size", "tokens", "padded with"]
    return f"Text (no negative prompt: {nothing})\n" + text.table(header, rows, right=[2, 3, 4])


FEW = 3  # schedule constants are listed one by one up to this many


def _tensors(tensors: Sequence[TensorSpec], schedule: bool = False) -> str:
    """Names, dtypes and shapes; the many schedule constants are summarised."""
    constants = [t for t in tensors if schedule or t.role == "constant"]
    if len(constants) <= FEW:
        constants = []
    described = [f"{t.name} {t.dtype} [{', '.join(map(str, t.shape))}]" for t in tensors if t not in constants]
    if constants:
        floats = sum(math.prod(int(dim) for dim in t.shape[1:]) for t in constants)
        described.append(f"{len(constants)} schedule constants of {floats} floats")
    return ", ".join(described)


def _bytes(manifest: Manifest, file: str) -> str:
    return text.size(manifest.bytes_of(file)) if file in manifest.files else "?"


def _networks(manifest: Manifest) -> str:
    lines = []
    for name, component in manifest.components.items():
        lines.append(f"Network {name}")
        for arrow, tensors in (("in ", component.spec.inputs), ("out", component.spec.outputs)):
            described = _tensors(tensors, name == SCHEDULE and arrow == "out")
            wrapped = textwrap.wrap(described, WIDTH - 6, break_on_hyphens=False)
            lines += [f"  {arrow if i == 0 else '   '} {line}" for i, line in enumerate(wrapped)]
        rows = []
        for format, files in component.formats.items():
            mark = "default" if format == manifest.default_format else ""
            rows.append([format, files["file"], _bytes(manifest, files["file"]), mark])
        if component.weights:
            rows.append(["weights", component.weights.file, _bytes(manifest, component.weights.file), "for the torch engine"])
        if component.table:
            table = component.table
            rows.append(["table", table.file, _bytes(manifest, table.file), f"{len(table.timesteps)} timesteps"])
        lines.append(text.table(["format", "file", "size", ""], rows, right=[2]))
        if component.schedule_constants:
            lines.append(f"  schedule: {_removed(component.schedule_constants)}")
    return "\n".join(lines)


def _removed(split: Mapping[str, Any]) -> str:
    """The operators and weights that were moved into the schedule."""
    if not split.get("operators"):
        return f"no operators removed ({split.get('reason', 'nothing to remove')})"
    names = ("operators", "of_operators", "weights", "of_weights")
    counts: list[Any] = [split[name] if _is_number(split.get(name)) else 0 for name in names]
    operators, known, weights, all_weights = counts
    return f"{operators} of {known} operators, {weights / max(all_weights, 1):.1%} of weights removed"


def render_engines(manifest: Manifest) -> str:
    """The engine files of a bundle as text; "" if it has none."""
    rows = []
    for component in manifest.components.values():
        for plan in component.engines:
            share = plan.precision.get("as_asked") if isinstance(plan.precision, Mapping) else None
            requested = f"{share:.0%}" if _is_number(share) else ""  # of the multiply-adds
            row = [plan.engine, plan.target, plan.format, _bytes(manifest, plan.file), plan.built_with]
            rows.append([*row, precision_text(plan.precision), requested])
    if not rows:
        return ""
    header = ["engine", "target", "format", "size", "built with", "layers run in", "as asked"]
    return "\n".join(["Engines", text.table(header, rows, right=[3, 6]), *_surprises(manifest)])


def _surprises(manifest: Manifest) -> Iterator[str]:
    """Layers of plans that do not run in the requested type, each listed once with all targets concerned."""
    by_sentence: dict[tuple[str, str], list[str]] = {}
    for component in manifest.components.values():
        for plan in component.engines:
            for sentence in plan.surprises:
                by_sentence.setdefault((plan.format, sentence), []).append(plan.target)
    for (format, sentence), targets in by_sentence.items():
        line = f"{format} on {', '.join(targets)}: {sentence}"
        yield from textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def precision_text(precision: Any) -> str:
    """The precisions that the build log shows, such as "int8 24, half 3": numbers of layers, the most frequent first."""
    if not isinstance(precision, Mapping):
        return str(precision or "")
    counts = {str(k): v for k, v in precision.items() if isinstance(v, int) and not isinstance(v, bool)}
    for value in precision.values():
        if not counts and isinstance(value, Mapping):
            counts = {str(k): v for k, v in value.items() if isinstance(v, int)}
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _programs(manifest: Manifest) -> str:
    rows = []
    for name, program in sorted(manifest.programs.items(), key=lambda item: item[0] != manifest.default_program):
        mark = "default" if name == manifest.default_program else ""
        rows.append([name, f"{program.nfe or 1}", f"{program.slots}", f"{program.guidance_scale:g}", mark])
    return "Programs (--program NAME prints one)\n" + text.table(
        ["name", "evaluations", "slots", "guidance", ""], rows, right=[1, 2, 3]
    )


def _number(figures: Mapping[str, Any], name: str, form: str = "{:.3g}") -> str:
    value = figures.get(name)
    return form.format(value) if _is_number(value) else "–"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _quality(manifest: Manifest) -> str:
    rows, judge = [], manifest.judge
    for format, figures in manifest.quality.items():
        low, high = _number(figures, "frechet_low"), _number(figures, "frechet_high")
        rows.append(
            [
                format,
                _number(figures, "frechet"),
                "–" if low == "–" else f"{low} … {high}",
                _number(figures, "class_accuracy", "{:.1%}"),
                _number(figures, "psnr", "{:.1f} dB"),
                _number(figures, "centred_l2" if "centred_l2" in figures else "relative_l2"),
                _number(figures, "ssim", "{:.3f}"),
                _number(figures, "weight_share", "{:.0%}"),
                _number(figures, "n", "{:.0f}"),
            ]
        )
    if not rows:
        return ""
    by = f", scored by a classifier of {judge.accuracy:.1%} held-out accuracy" if judge and judge.accuracy else ""
    header = ["format", "Fréchet", "95 % interval", "class accuracy", "PSNR to fp32", "relative L2", "SSIM", "weights", "n"]
    others = [
        f"  {format} at {size}, n {_number(score, 'n', '{:.0f}')}: PSNR {_number(score, 'psnr', '{:.1f} dB')}, relative L2 "
        f"{_number(score, 'relative_l2')}"
        for format, figures in manifest.quality.items()
        for size, score in _mapping(figures.get("sizes")).items()
        if isinstance(score, Mapping)
    ]
    return "\n".join([f"Quality{by}", text.table(header, rows, right=[1, 2, 3, 4, 5, 6, 7, 8]), *others])


def _components(manifest: Manifest) -> str:
    """What each component of each format is stored in, what it costs and how long it takes."""
    rows = list(components.rows(manifest))
    if not rows:
        return ""
    lines = ["Components (alone: with that one in the format, the others in fp32)"]
    lines.append(text.table(list(components.HEADER), rows, right=[3, 4, 5, 6]))
    for remark in components.remarks(manifest):
        lines += textwrap.wrap(remark, WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _lines(name: str, value: Any) -> Iterator[str]:
    each = [f"{k} {v}" for k, v in value.items()] if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    shown = ", ".join(map(str, each))
    yield from textwrap.wrap(f"{name}: {shown}", WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _provenance(manifest: Manifest) -> str:
    lines = ["Provenance"]
    for name, value in manifest.provenance.items():
        if value is not None:
            lines += _lines(name.replace("_", " "), value)
    lines += _lines("created", manifest.created or "?")
    lines += _lines("with", manifest.tools)
    return "\n".join(lines)
