"""The layer-by-layer facts about a bundle's formats that the report shows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.errors import AigcEdgeError

PLANS = "tensorrt"  # the graph of a format that plans are built from, if it has a separate one


@dataclass(frozen=True)
class LayerFacts:
    """One layer of one network in its format.

    `error` is the relative L2 error of the final sample when this layer alone is in that format, `runs` the type that the build
    log shows, by GPU target.
    """

    name: str
    format: str
    error: float | None
    bytes: int
    macs: int
    runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FormatFacts:
    """One network in one format: its compression report, its layers in order, and the quality of the whole bundle in it."""

    format: str
    component: str
    engine: str
    report: Mapping[str, Any]
    layers: tuple[LayerFacts, ...]
    quality: Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """A bundle's manifest and the contents of its quality card for each format."""

    manifest: Manifest
    formats: tuple[FormatFacts, ...]


def read(bundle: str | os.PathLike[str]) -> Facts:
    """The facts of the bundle at `bundle`, a folder or one file.

    Raises BundleError for a damaged bundle, AigcEdgeError for one without quantised formats.
    """
    opened = Bundle.open(bundle, verify=True)
    path, manifest = opened.path, opened.manifest
    if "quality.json" not in manifest.files:
        raise AigcEdgeError(f"{path} has no quality card: compile it again")
    card = json.loads(opened.read("quality.json"))
    formats = []
    for format, quality in card.items():
        reports = quality.get("compression") or {}
        for stem, report in reports.items():
            component, _, rest = stem.partition(".")
            engine = rest.partition(".")[2]
            other = engine != PLANS and any(name.endswith(f".{PLANS}") for name in reports)  # plans are built from another graph
            runs = {} if other else _runs(opened, component, format)
            layers = tuple(_layer(name, node, runs) for name, node in report.get("nodes", {}).items())
            formats.append(FormatFacts(format, component, engine, report, layers, quality))
    if not formats:
        raise AigcEdgeError(f"{path} has no quantised format: add one with aigc-edge quantise")
    return Facts(manifest, tuple(formats))


def _layer(name: str, node: Mapping[str, Any], runs: Mapping[str, Mapping[str, str]]) -> LayerFacts:
    onnx = str(node.get("node", ""))
    types = {target: table[onnx] for target, table in runs.items() if onnx in table}
    return LayerFacts(name, node["format"], node.get("error"), int(node["bytes"]), int(node["macs"]), types)


def _runs(bundle: Bundle, component: str, format: str) -> dict[str, dict[str, str]]:
    """The input type of each ONNX node's kernel by target and node name, from the build reports of the plans."""
    by_target: dict[str, dict[str, str]] = {}
    network = bundle.manifest.components.get(component)
    for plan in network.engines if network else ():
        if plan.format != format or plan.report not in bundle.manifest.files:
            continue
        table = json.loads(bundle.read(plan.report))["precision"].get("table", [])
        by_target[plan.target] = {
            node_of(name): row["precision"] for row in table for name in (row["name"], *row.get("nodes", ()))
        }
    return by_target


def node_of(layer: str) -> str:
    """The output of the ONNX node that names a plan's layer: TensorRT appends "_myl…", the exporter prepends "node_"."""
    return layer.partition("_myl")[0].removeprefix("node_")
