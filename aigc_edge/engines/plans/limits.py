"""Expected precision fallbacks of a network before it is built, and their comparison with the build log afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aigc_edge.engines.formats import formats_of
from aigc_edge.engines.plans.graph import RequestedLayer
from aigc_edge.engines.plans.support import AROUND, limit_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

_VERIFIED = ("fp16", "bf16", "int8", "fp8")  # formats whose type must appear in the build log
_SHOWN = 3


def expected_fallbacks(
    target: Target | None, requested: Sequence[RequestedLayer], file: str, module: str | None = None
) -> list[dict[str, Any]]:
    """The layers that will silently run in another type: operator, format, actual type, reason and layer names.

    Raises AigcEdgeError for layers that the target cannot run at all.
    """
    fallbacks: dict[tuple[str, str, str], dict[str, Any]] = {}
    for layer in requested if target is not None else ():
        assert target is not None
        for format in dict.fromkeys((layer.format, layer.around)):
            limit = limit_of(target, format, layer.operator, module)
            if limit is None:
                continue
            if limit.runs is None:
                affected = [a.name for a in requested if a.operator == layer.operator and format in (a.format, a.around)]
                raise AigcEdgeError(
                    f"{file} cannot be built for {target.name}: its {layer.operator} in {format} ({_some(affected)}) does not "
                    f"run there, {limit.why}; choose another format ({', '.join(formats_of(target))}) or another target"
                )
            runs = layer.around if limit.runs == AROUND else limit.runs
            if runs != layer.runs and format == layer.format:
                entry = {"operator": layer.operator, "format": format, "runs": runs, "why": limit.why, "layers": []}
                fallbacks.setdefault((layer.operator, format, runs), entry)["layers"].append(layer.name)
    return list(fallbacks.values())


def compare_with_log(
    requested: Sequence[RequestedLayer], table: Iterable[dict[str, Any]], expected: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Compare the requested types with the layer table of the build log.

    Returns `as_asked`, the share of MACs in the requested type (None: the log names none of the layers), and `surprises`, the
    layers that run in another type, with `foreseen` true for those that the target's limits predicted.
    """
    by_name = {layer.name: layer for layer in requested}
    expected_names = {name for entry in expected for name in entry["layers"]}
    total = matching = 0
    surprises = []
    for row in table:
        layer = next((by_name[name] for name in row["nodes"] if name in by_name), None)
        if layer is None:
            continue
        total += row["macs"]
        if row["precision"] == layer.runs:
            matching += row["macs"]
        else:
            surprise = {"layer": layer.name, "operator": layer.operator, "asked": layer.runs, "runs": row["precision"]}
            surprises.append(surprise | {"foreseen": layer.name in expected_names})
    return {"as_asked": round(matching / total, 4) if total else None, "surprises": surprises}


def with_outputs(requested: Sequence[RequestedLayer], table: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the layer table, with the output tensors of their convolutions and matrix products added to `nodes`."""
    outputs = {layer.name: layer.output for layer in requested if layer.output}
    rows = []
    for row in table:
        output = next((outputs[name] for name in row["nodes"] if name in outputs), None)
        rows.append(row if output is None or output in row["nodes"] else row | {"nodes": [*row["nodes"], output]})
    return rows


def check_precision(
    format: str, target: str, file: str, precision: dict[str, Any], surprises: Sequence[dict[str, Any]] = ()
) -> None:
    """Raise AigcEdgeError when no layer in the log runs in the format, or in the 4-bit floats that layers requested."""
    layers: dict[str, int] = precision["layers"]
    kind = format if format in _VERIFIED else "fp4" if any(entry["asked"] == "fp4" for entry in surprises) else None
    if kind is not None and kind not in layers:
        counts = ", ".join(f"{n} in {name}" for name, n in layers.items()) or "no layers"
        raise AigcEdgeError(
            f"{kind} was requested for {target}, but no convolution or matrix product of {file} runs in it there ({counts}): "
            "choose another format for this target"
        )


def sentences(report: dict[str, Any]) -> list[str]:
    """Warnings about a built plan, one line each: layers that do not run in the requested type."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for entry in report.get("surprises", ()):
        groups.setdefault((entry["operator"], entry["asked"], entry["runs"]), []).append(entry["layer"])
    reasons = {(e["operator"], e["runs"]): e["why"] for e in report.get("expected", ())}
    lines = []
    for (operator, requested, runs), names in groups.items():
        reason = reasons.get((operator, runs))
        lines.append(f"{len(names)} {operator} in {runs}, not {requested} ({_some(names)})" + (f": {reason}" if reason else ""))
    return lines


def _some(names: Sequence[str]) -> str:
    suffix = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + suffix
