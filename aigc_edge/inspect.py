"""What `aigc-edge inspect` says of a bundle: read and verified by the native reader, the one that sampling trusts too."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aigc_edge import _core, text
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError, BundleError

WIDTH = 100
VERIFY_ALL = 1
Manifest = Mapping[str, Any]


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of the bundle at `path` after every file was hashed, with "verified" (files) and "total_bytes" added.

    Raises BundleError when the bundle is missing, damaged, tampered with or of a newer version.
    """
    if not Path(path).exists():
        raise BundleError(f"there is no bundle at {os.fspath(path)}: give the folder or file that `aigc-edge compile` wrote")
    handle = _core.Handle(os.fspath(path), None, verify=VERIFY_ALL)
    try:
        manifest: dict[str, Any] = json.loads(handle.manifest)
    finally:
        handle.close()
    files = manifest["files"]
    return manifest | {"verified": len(files), "total_bytes": sum(entry["bytes"] for entry in files.values())}


def program_of(manifest: Manifest, name: str) -> Program:
    """The program called `name`, or the default for "default"; raises AigcEdgeError that lists the names there are."""
    programs = manifest["programs"]
    wanted = manifest["default_program"] if name == "default" else name
    if wanted not in programs:
        raise AigcEdgeError(f"the bundle has no program {name!r}: choose one of {', '.join(sorted(programs))}")
    return Program.from_json(programs[wanted])


def render(manifest: Manifest) -> str:
    """The description as text for a terminal of 100 columns."""
    parts = [
        _head(manifest),
        _networks(manifest),
        _engines(manifest),
        _programs(manifest),
        _quality(manifest),
        _provenance(manifest),
    ]
    return "\n\n".join(part for part in parts if part)


def _shape(shape: Any) -> str:
    return "×".join(str(size) for size in shape)


def _head(manifest: Manifest) -> str:
    classes = manifest.get("classes")
    kind = f"{classes['count']} classes" if classes else "unconditional"
    lines = [
        f"{manifest['name']}: {manifest['family']}, {kind}, images {_shape(manifest['output_shape'])} from latents "
        f"{_shape(manifest['sample_shape'])}",
        f"bundle version {manifest['version']}, {text.size(manifest['total_bytes'])}, "
        f"all {manifest['verified']} files match their SHA-256",
    ]
    names = (classes or {}).get("names") or []
    if names and names != [str(i) for i in range(len(names))]:
        lines += textwrap.wrap(
            "classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(names)), WIDTH, subsequent_indent="  "
        )
    return "\n".join(lines)


def _tensors(tensors: Any) -> str:
    return ", ".join(f"{t['name']} {t['dtype']} [{', '.join(str(s) for s in t['shape'])}]" for t in tensors)


def _bytes(manifest: Manifest, file: str) -> str:
    return text.size(manifest["files"][file]["bytes"]) if file in manifest["files"] else "?"


def _networks(manifest: Manifest) -> str:
    lines = []
    for name, component in manifest["components"].items():
        lines.append(f"Network {name}")
        for arrow, key in (("in ", "inputs"), ("out", "outputs")):
            wrapped = textwrap.wrap(_tensors(component[key]), WIDTH - 6, break_on_hyphens=False)
            lines += [f"  {arrow if i == 0 else '   '} {line}" for i, line in enumerate(wrapped)]
        rows = []
        for format, entry in component["formats"].items():
            mark = "default" if format == manifest["default_format"] else ""
            rows.append([format, entry["file"], _bytes(manifest, entry["file"]), mark])
        if component.get("weights"):
            file = component["weights"]["file"]
            rows.append(["weights", file, _bytes(manifest, file), "for the torch engine"])
        if component.get("table"):
            table = component["table"]
            rows.append(["table", table["file"], _bytes(manifest, table["file"]), f"{len(table['timesteps'])} timesteps"])
        lines.append(text.table(["format", "file", "size", ""], rows, right=[2]))
        if component.get("schedule_constants"):
            lines.append(f"  schedule: {_removed(component['schedule_constants'])}")
    return "\n".join(lines)


def _removed(found: Manifest) -> str:
    """What the network lost because it depends on the timestep alone."""
    if not found.get("operators"):
        return f"no operators removed ({found.get('reason', 'nothing to remove')})"
    share = found["weights"] / max(found["of_weights"], 1)
    return f"{found['operators']} of {found['of_operators']} operators, {share:.1%} of weights removed"


def _engines(manifest: Manifest) -> str:
    rows = []
    for component in manifest["components"].values():
        for plan in component.get("engines", []):
            size, proof = _bytes(manifest, plan["file"]), precision_text(plan.get("precision"))
            rows.append([plan["engine"], plan["target"], plan["format"], size, plan.get("built_with", ""), proof])
    if not rows:
        return ""
    header = ["engine", "target", "format", "size", "built with", "layers run in"]
    return "Engines\n" + text.table(header, rows, right=[3])


def precision_text(precision: Any) -> str:
    """The precisions that the build log proved, such as "int8 24, half 3": numbers of layers, the most frequent first."""
    if not isinstance(precision, Mapping):
        return str(precision or "")
    counts = {str(k): v for k, v in precision.items() if isinstance(v, int) and not isinstance(v, bool)}
    for value in precision.values():
        if not counts and isinstance(value, Mapping):
            counts = {str(k): v for k, v in value.items() if isinstance(v, int)}
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _programs(manifest: Manifest) -> str:
    rows = []
    for name, value in sorted(manifest["programs"].items(), key=lambda item: item[0] != manifest["default_program"]):
        program = Program.from_json(value)
        mark = "default" if name == manifest["default_program"] else ""
        rows.append([name, f"{program.nfe or 1}", f"{program.slots}", f"{program.guidance_scale:g}", mark])
    return "Programs (--program NAME prints one)\n" + text.table(
        ["name", "evaluations", "slots", "guidance", ""], rows, right=[1, 2, 3]
    )


def _number(figures: Manifest, name: str, form: str = "{:.3g}") -> str:
    value = figures.get(name)
    return "–" if not isinstance(value, (int, float)) else form.format(value)


def _quality(manifest: Manifest) -> str:
    quality = manifest.get("quality") or {}
    rows = []
    for format, figures in quality.items():
        if not isinstance(figures, Mapping):
            continue
        low, high = _number(figures, "frechet_low"), _number(figures, "frechet_high")
        rows.append(
            [
                format,
                _number(figures, "frechet"),
                "–" if low == "–" else f"{low} … {high}",
                _number(figures, "class_accuracy", "{:.1%}"),
                _number(figures, "psnr", "{:.1f} dB"),
                _number(figures, "relative_l2"),
                _number(figures, "n", "{:.0f}"),
            ]
        )
    judge = manifest.get("judge")
    if not rows:
        return ""
    by = f", scored by a classifier of {judge['accuracy']:.1%} held-out accuracy" if judge and judge.get("accuracy") else ""
    header = ["format", "Fréchet", "95 % interval", "class accuracy", "PSNR to fp32", "relative L2", "n"]
    return f"Quality{by}\n" + text.table(header, rows, right=[1, 2, 3, 4, 5, 6])


def _lines(name: str, value: Any) -> Iterator[str]:
    shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
    yield from textwrap.wrap(f"{name}: {shown}", WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _provenance(manifest: Manifest) -> str:
    lines = ["Provenance"]
    for name, value in (manifest.get("provenance") or {}).items():
        if value is not None:
            lines += _lines(name.replace("_", " "), value)
    lines += _lines("made", manifest.get("created", "?"))
    lines += _lines("with", manifest.get("tools") or {})
    return "\n".join(lines)
