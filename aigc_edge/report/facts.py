"""What a bundle knows of its formats, layer by layer, in the form that the report shows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.errors import AigcEdgeError
from aigc_edge.report.summary import verified

PLANS = "tensorrt"  # the graph of a format that plans are built from, where it has one of its own


@dataclass(frozen=True)
class LayerFacts:
    """One layer of one network: the format it is in, the relative L2 error of the final sample when it alone is in that format,
    its bytes and multiply-adds, and for each GPU target the type that the build log shows."""

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
    """A bundle's manifest and what its quality card says of each format."""

    manifest: Manifest
    formats: tuple[FormatFacts, ...]


def read(bundle: str | os.PathLike[str]) -> Facts:
    """The facts of the bundle at `bundle`, a folder or one file.

    Raises BundleError for a damaged bundle, AigcEdgeError for one without formats that were made by compression.
    """
    opened = verified(bundle)
    path, manifest = opened.path, opened.manifest
    if "quality.json" not in manifest.files:
        raise AigcEdgeError(f"{path} has no quality card: compile it again")
    card = json.loads(opened.read("quality.json"))
    found = []
    for format, quality in card.items():
        reports = quality.get("compression") or {}
        for stem, report in reports.items():
            component, _, rest = stem.partition(".")
            engine = rest.partition(".")[2]
            other = engine != PLANS and any(name.endswith(f".{PLANS}") for name in reports)  # plans are built from that one
            runs = {} if other else _runs(opened, component, format)
            layers = tuple(_layer(name, node, runs) for name, node in report.get("nodes", {}).items())
            found.append(FormatFacts(format, component, engine, report, layers, quality))
    if not found:
        raise AigcEdgeError(f"{path} has no format that was made by compression: add one with aigc-edge quantise")
    return Facts(manifest, tuple(found))


def _layer(name: str, node: Mapping[str, Any], runs: Mapping[str, Mapping[str, str]]) -> LayerFacts:
    onnx = str(node.get("node", ""))
    types = {target: table[onnx] for target, table in runs.items() if onnx in table}
    return LayerFacts(name, node["format"], node.get("error"), int(node["bytes"]), int(node["macs"]), types)


def _runs(bundle: Bundle, component: str, format: str) -> dict[str, dict[str, str]]:
    """Target → name of an ONNX node → the type that its kernel takes, from the reports beside the plans."""
    found: dict[str, dict[str, str]] = {}
    network = bundle.manifest.components.get(component)
    for plan in network.engines if network else ():
        if plan.format != format or plan.report not in bundle.manifest.files:
            continue
        table = json.loads(bundle.read(plan.report))["precision"].get("table", [])
        found[plan.target] = {node_of(name): row["precision"] for row in table for name in (row["name"], *row.get("nodes", ()))}
    return found


def node_of(layer: str) -> str:
    """What the ONNX node gives that a layer of a plan is named after: TensorRT adds "_myl" and numbers, the exporter "node_"."""
    return layer.partition("_myl")[0].removeprefix("node_")
