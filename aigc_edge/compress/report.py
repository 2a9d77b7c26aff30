"""What every format says of itself, in its file and in its report."""

from __future__ import annotations

import math

import onnx

import aigc_edge


def finite(value: float) -> float | None:
    """`value` for JSON, which knows no infinity: None."""
    return value if math.isfinite(value) else None


def stamped(model: onnx.ModelProto, format: str) -> onnx.ModelProto:
    """`model` with its format and the version of this package in its metadata (in place)."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    properties |= {"format": format, "aigc_edge": aigc_edge.__version__}
    onnx.helper.set_model_props(model, properties)
    return model
