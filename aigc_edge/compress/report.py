"""What a conversion reports of itself: one schema for all formats, stored in a bundle's quality card as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import onnx

import aigc_edge


@dataclass
class LayerReport:
    """One layer: the format it is stored in, the relative L2 error when it alone is in the format, its size and cost.

    `error` is None where it was not measured; `macs` are multiply-adds for one sample; `node` is the node's first output.
    """

    format: str
    error: float | None
    bytes: int
    macs: int
    node: str | None = None
    macs_before: int | None = None  # structured pruning only

    def to_json(self) -> dict[str, Any]:
        """The members that are set; `error` always."""
        members = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: finite(value) for name, value in members.items() if value is not None or name == "error"}


@dataclass
class CompressionReport:
    """What was done to one network and what it cost in quality; members that do not apply to a format are None.

    PSNR values are in dB, of final samples against float32 from the same noise, the peak being the range of the latter: infinite
    when equal, None when not measured.
    `rows` has the relative L2 error of the network's output in each row of the sampling program.
    """

    format: str
    source_bytes: int
    bytes: int = 0
    psnr: float | None = None
    centred_l2: float | None = None  # error relative to what varies in the fp32 samples
    rows: list[dict[str, Any]] = field(default_factory=list)
    engine: str | None = None
    budget_psnr: float | None = None
    aimed_psnr: float | None = None
    all_psnr: float | None = None  # with all layers in the format
    estimator: str | None = None
    estimators: dict[str, float] | None = None  # PSNR by calibration method
    share: float | None = None  # of the weights' bytes in the format; of the multiply-adds removed, when channels are pruned
    weights: int | None = None  # elements of the network's weights
    weight_share: float | None = None  # of them in the format
    macs_share: float | None = None  # of the multiply-adds of layers in the format
    n: int | None = None  # samples that were compared
    trials: int | None = None  # mixtures of layers that were measured
    psnr_before: float | None = None  # before fine-tuning
    steps: int | None = None  # of fine-tuning
    macs_before: int | None = None
    macs: int | None = None
    groups: dict[str, dict[str, int]] | None = None  # channels of each pruned group, before and after
    nodes: dict[str, LayerReport] = field(default_factory=dict)
    ranges: dict[str, dict[str, Any]] | None = None  # of quantised activations
    qat: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The members that are set, as JSON types; `psnr` always: null for equal samples, or without calibration data."""
        members = {item.name: getattr(self, item.name) for item in fields(self)}
        members["nodes"] = {name: layer.to_json() for name, layer in self.nodes.items()} or None
        return {name: _plain(value) for name, value in members.items() if value is not None or name == "psnr"}


def finite(value: Any) -> Any:
    """`value`, or None for an infinite number, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else finite(value)


def stamped(model: onnx.ModelProto, format: str) -> onnx.ModelProto:
    """`model` with its format and the version of this package in its metadata (in place)."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    properties |= {"format": format, "aigc_edge": aigc_edge.__version__}
    onnx.helper.set_model_props(model, properties)
    return model
