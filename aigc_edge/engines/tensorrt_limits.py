"""What a target's limits say of a network before it is built, and what the build log says of it afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aigc_edge.engines.formats import formats_of
from aigc_edge.engines.tensorrt_graph import Asked
from aigc_edge.engines.tensorrt_support import AROUND, limit_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

_PROVEN = ("fp16", "bf16", "int8", "fp8")  # formats whose type must show up in the build log
_SHOWN = 3


def expected(target: Target | None, asked: Sequence[Asked], file: str, module: str | None = None) -> list[dict[str, Any]]:
    """The layers that will silently run in another type: operator, format, runs, why and their names.

    Raises AigcEdgeError for layers that the target cannot run at all.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for layer in asked if target is not None else ():
        assert target is not None
        for format in dict.fromkeys((layer.format, layer.around)):
            limit = limit_of(target, format, layer.operator, module)
            if limit is None:
                continue
            if limit.runs is None:
                same = [a.name for a in asked if a.operator == layer.operator and format in (a.format, a.around)]
                raise AigcEdgeError(
                    f"{file} cannot be built for {target.name}: its {layer.operator} in {format} ({_some(same)}) does not run "
                    f"there, {limit.why}; choose another format ({', '.join(formats_of(target))}) or another target"
                )
            runs = layer.around if limit.runs == AROUND else limit.runs
            if runs != layer.runs and format == layer.format:
                entry = {"operator": layer.operator, "format": format, "runs": runs, "why": limit.why, "layers": []}
                found.setdefault((layer.operator, format, runs), entry)["layers"].append(layer.name)
    return list(found.values())


def compared(asked: Sequence[Asked], table: Iterable[dict[str, Any]], foreseen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`as_asked`, the share of the multiply-adds in the type that the network asks for (None: the log names no layer of it), and
    `surprises`, the layers that run in another, `foreseen` saying whether the target's limits told so before the build."""
    wanted = {layer.name: layer for layer in asked}
    told = {name for entry in foreseen for name in entry["layers"]}
    work = right = 0
    surprises = []
    for row in table:
        layer = next((wanted[name] for name in row["nodes"] if name in wanted), None)
        if layer is None:
            continue
        work += row["macs"]
        if row["precision"] == layer.runs:
            right += row["macs"]
        else:
            surprise = {"layer": layer.name, "operator": layer.operator, "asked": layer.runs, "runs": row["precision"]}
            surprises.append(surprise | {"foreseen": layer.name in told})
    return {"as_asked": round(right / work, 4) if work else None, "surprises": surprises}


def with_outputs(asked: Sequence[Asked], table: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the layer table, the tensors that their convolutions and products make among the nodes that they name."""
    outputs = {layer.name: layer.output for layer in asked if layer.output}
    found = []
    for row in table:
        made = next((outputs[name] for name in row["nodes"] if name in outputs), None)
        found.append(row if made is None or made in row["nodes"] else row | {"nodes": [*row["nodes"], made]})
    return found


def prove(format: str, target: str, file: str, precision: dict[str, Any], surprises: Sequence[dict[str, Any]] = ()) -> None:
    """Raise AigcEdgeError when a format, or the 4-bit floats that products ask for, shows up in no layer of the log at all."""
    layers: dict[str, int] = precision["layers"]
    wanted = format if format in _PROVEN else "fp4" if any(entry["asked"] == "fp4" for entry in surprises) else None
    if wanted is not None and wanted not in layers:
        found = ", ".join(f"{n} in {name}" for name, n in layers.items()) or "none at all"
        raise AigcEdgeError(
            f"{wanted} was asked for {target}, but no convolution or matrix product of {file} runs in it there ({found}): choose "
            "another format for this target"
        )


def sentences(report: dict[str, Any]) -> list[str]:
    """What a user should know of a finished plan, one line each: layers that do not run in the type that was asked for."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for entry in report.get("surprises", ()):
        groups.setdefault((entry["operator"], entry["asked"], entry["runs"]), []).append(entry["layer"])
    why = {(e["operator"], e["runs"]): e["why"] for e in report.get("expected", ())}
    found = []
    for (operator, asked, runs), names in groups.items():
        reason = why.get((operator, runs))
        found.append(f"{len(names)} {operator} in {runs}, not {asked} ({_some(names)})" + (f": {reason}" if reason else ""))
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
