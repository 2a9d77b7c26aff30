"""Ranges of chosen tensors of a network along calibration inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.graphs import graph
from aigc_edge.errors import AigcEdgeError

Observe = Callable[[str, npt.NDArray[Any], int], None]  # tensor, its values, row of the program


@dataclass
class TensorRange:
    """The range of one tensor over all rows of the program, which always includes zero (padding and masks must stay exact), and
    the range in each row."""

    low: float = 0.0
    high: float = 0.0
    rows: dict[str, list[float]] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)

    def see(self, values: npt.NDArray[Any], row: int = 0) -> None:
        """Add the values of one evaluation in `row` of the program; raises AigcEdgeError when they are not finite."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise AigcEdgeError("an activation is NaN or infinite during calibration: the float32 network itself is broken")
        self.low, self.high = min(self.low, low), max(self.high, high)
        bounds = self.rows.get(str(row), [low, high])
        self.rows[str(row)] = [min(bounds[0], low), max(bounds[1], high)]

    def to_json(self) -> dict[str, Any]:
        """The range as it stands in a compression report."""
        return {"low": self.low, "high": self.high, "rows": self.rows}


def observe_tensors(
    model: onnx.ModelProto, tensors: Collection[str], records: Sequence[Record], observe: Observe, threads: int
) -> None:
    """Call `observe` with the values of all `tensors`, one sample at a time: a batch of activations may not fit into memory."""
    network = graph.Network(graph.with_outputs(model, tensors), threads=threads)
    for record in records:
        for index in range(len(next(iter(record.inputs.values())))):
            inputs = {name: value[index : index + 1] for name, value in record.inputs.items()}
            values = dict(zip(network.outputs, network(inputs), strict=True)) | inputs
            for name in tensors:
                observe(name, values[name], record.row)
