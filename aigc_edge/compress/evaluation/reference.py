"""What a compressed network is measured against: the float32 network's samples from the same noise, and its evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.trajectory import Calibration, Evaluate, Inputs, Record, mean_square, row_errors
from aigc_edge.compress.graphs import graph

WORK = 4e11  # multiply-adds that one pass over the program may take: 15 s of one core or so
SEEN = 4  # evaluations that a quick comparison looks at
ROW_SAMPLES = 2  # samples of each row's batch that the errors of single rows are measured on


class HeldOutReference:
    """The float32 network along its program: samples to compare with, and the inputs that calibration may look at.

    Formats that calibrate see the first samples (`seen`) and are measured on others; the rest are measured on all. Large networks
    take part of the samples, as many as WORK allows, at least one of either kind. Of the float32 network only results are kept.
    Recipes report to `tell` how many layers they have calibrated, of how many.
    """

    def __init__(
        self,
        original: onnx.ModelProto,
        calibration: Calibration,
        *,
        calibrates: bool,
        threads: int,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.threads, self.tell = threads, tell
        self.calibration = calibration
        number = _affordable(original, calibration)
        seen = max(1, number // 2) if calibrates else 0
        first, rest = calibration.split(seen)
        self.held = rest.split(max(1, number - seen))[0]
        network = graph.Network(original, threads=threads)
        self.seen: list[Record] = []
        if calibrates:
            first.run(network, self.seen)
        records: list[Record] = []
        teacher_outputs: list[npt.NDArray[Any]] = []

        def watched(inputs: Inputs) -> list[npt.NDArray[Any]]:
            result = network(inputs)
            teacher_outputs.append(result[0])
            return result

        self.wanted = self.held.run(watched, records)
        guided = self.calibration.classes is not None
        part = [_positions(len(answer), guided) for answer in teacher_outputs]
        self.records = [
            replace(record, inputs={name: value[rows] for name, value in record.inputs.items()})
            for record, rows in zip(records, part, strict=True)
        ]
        self.teacher_outputs = [answer[rows] for answer, rows in zip(teacher_outputs, part, strict=True)]

    @property
    def n(self) -> int:
        """How many samples are compared."""
        return len(self.held.latents)

    def error(self, evaluate: Evaluate) -> float:
        """Mean squared error of the final samples of `evaluate`."""
        return mean_square(self.held.run(evaluate), self.wanted)

    def quick(self, evaluate: Evaluate) -> float:
        """Relative squared error of the network's output in a few rows: enough to rank layers by."""
        chosen = np.unique(np.linspace(0, len(self.records) - 1, SEEN).astype(int))
        errors = 0.0
        for index in chosen:
            size = mean_square(self.teacher_outputs[index], np.zeros(1)) or 1.0
            errors += mean_square(evaluate(self.records[index].inputs)[0], self.teacher_outputs[index]) / size
        return errors / len(chosen) if math.isfinite(errors) else math.inf

    def rows(self, evaluate: Evaluate) -> list[dict[str, Any]]:
        """Relative L2 error of the network's output in every row, both networks given the same input."""
        known = iter(self.teacher_outputs)
        return row_errors(evaluate, lambda inputs: [next(known)], self.records, self.calibration.program)


def _positions(batch: int, guided: bool) -> Sequence[int]:
    """A few samples of a batch; of a guided one, which has both halves in it, from either."""
    few = min(batch, ROW_SAMPLES)
    return [*range(few - few // 2), *range(batch - few // 2, batch)] if guided else list(range(few))


def _affordable(model: onnx.ModelProto, calibration: Calibration) -> int:
    n, rows = len(calibration.latents), max(1, len(calibration.program.rows))
    one = sum(layer.macs for layer in graph.layers(model)) * rows * (2 if calibration.classes is not None else 1)
    return min(n, max(2, int(WORK / max(one, 1))))
