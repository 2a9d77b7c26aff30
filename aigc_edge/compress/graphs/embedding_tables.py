"""Embedding tables in int8 with one scale per row: only the rows that are looked up are dequantised."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from aigc_edge.compress.graphs.graph import attribute, initialisers
from aigc_edge.compress.graphs.qdq import quantise_weight
from aigc_edge.compress.graphs.replacement import Replacement, replaced

LEAST = 4096  # elements: smaller tables are not worth two more operators


def with_int8_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with its large constant float32 tables [rows, width] in int8; `model` itself when it has none."""
    constants = {name: value for name, value in initialisers(model).items() if value.dtype == np.float32 and value.ndim == 2}
    parts: dict[str, Replacement] = {}
    for node in model.graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 else None
        if table is None or table.size < LEAST:
            continue
        part = Replacement(node.output[0])
        integers, scale = quantise_weight(table, 0)
        rows = part.add("Gather", [part.constant("int8", integers, np.int8), node.input[1]], "rows")
        scales = part.add("Gather", [part.constant("scales", scale[:, None]), node.input[1]], "scale")
        part.add("Mul", [part.add("Cast", [rows], "float", to=TensorProto.FLOAT), scales], None)
        parts[part.name] = part
    return replaced(model, parts) if parts else model
