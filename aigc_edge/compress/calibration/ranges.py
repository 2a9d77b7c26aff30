"""Runs a network along calibration inputs and shows every value of chosen tensors, one sample at a time."""

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

See = Callable[[str, npt.NDArray[Any], int], None]  # tensor, its values, row of the program


@dataclass
class TensorRange:
    """The range of one tensor, over all rows of the program and in each; zero always belongs to it."""

    low: float = 0.0
    high: float = 0.0
    rows: dict[str, list[float]] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The size of the largest value."""
        return max(-self.low, self.high)

    def see(self, values: npt.NDArray[Any], row: int) -> None:
        """Take in one evaluation; raises AigcEdgeError for values that are not finite."""
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise AigcEdgeError("an activation is NaN or infinite while calibrating: the float32 network itself is broken")
        self.low, self.high = min(self.low, low), max(self.high, high)
        seen = self.rows.setdefault(str(row), [low, high])
        self.rows[str(row)] = [min(seen[0], low), max(seen[1], high)]


def watch(model: onnx.ModelProto, tensors: Collection[str], records: Sequence[Record], see: See, threads: int) -> None:
    """Call `see` for all `tensors`; one sample at a time, because all activations of a batch would not fit into memory."""
    network = graph.Network(graph.with_outputs(model, tensors), threads=threads)
    for record in records:
        for index in range(len(next(iter(record.inputs.values())))):
            inputs = {name: value[index : index + 1] for name, value in record.inputs.items()}
            values = dict(zip(network.outputs, network(inputs), strict=True)) | inputs
            for name in tensors:
                see(name, values[name], record.row)
