"""The distillation set: inputs along the trajectory with the float32 network's outputs, which a changed network is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.compute_budget import dry_run, output_gains
from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.graphs import graph

TEACHER_MACS = 4e12  # multiply-adds that the float32 network may spend on its outputs: a few minutes on one core
MEMORY = 512 * 2**20  # bytes of inputs and outputs
SAMPLES = 256  # trajectories, enough for any network
ONE_SHOT = 4096  # latents, for a network that is evaluated once


@dataclass
class DistillationSet:
    """Inputs of single evaluations along the trajectory, the float32 network's outputs, and the weight of each in the loss.

    The first axis of every array runs over the evaluations of all samples and rows.
    """

    inputs: dict[str, npt.NDArray[Any]]
    teacher_outputs: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    @property
    def size(self) -> int:
        """The number of evaluations."""
        return len(self.teacher_outputs)


def distillation_set(
    original: onnx.ModelProto, calibration: Calibration, *, samples: int = 0, seed: int = 0, threads: int = 1
) -> DistillationSet:
    """Evaluate the float32 network along trajectories from new noise, as many as TEACHER_MACS and MEMORY allow.

    Conditions are those of the calibration, in turn. Half of an evaluation's weight is its effect on the final sample, the other
    half normalises by the size of its output: errors also travel on through the network.
    """
    calibration = calibration.calibrating()  # arrays that formats are evaluated on are not trained on
    rows = dry_run(calibration)
    each = sum(len(next(iter(record.inputs.values()))) for record in rows)
    one = sum(value[:1].nbytes for value in rows[0].inputs.values()) * each * 2
    work = max(1, sum(layer.macs for layer in graph.layers(original))) * each
    most = samples or (SAMPLES if calibration.program.rows else ONE_SHOT)
    number = max(2, min(most, int(TEACHER_MACS / work), int(MEMORY / one)))
    network = graph.Network(original, threads=threads)
    records: list[Record] = []
    teacher_outputs: list[npt.NDArray[Any]] = []
    for first in range(0, number, 16):

        def watched(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            outputs = network(inputs)
            teacher_outputs.append(outputs[0])
            return outputs

        calibration.with_new_noise(min(16, number - first), seed + 1 + first).run(watched, records)
    value = _values(calibration, records, teacher_outputs)
    return DistillationSet(
        {name: np.concatenate([record.inputs[name] for record in records]) for name in records[0].inputs},
        np.concatenate(teacher_outputs).astype(np.float32),
        np.concatenate([np.full(len(outputs), worth, np.float32) for outputs, worth in zip(teacher_outputs, value, strict=True)]),
    )


def _values(calibration: Calibration, records: list[Record], teacher_outputs: list[npt.NDArray[Any]]) -> list[float]:
    """The weight of the mean squared error of each record's evaluations."""
    rows = sorted({record.row for record in records})
    sizes = {
        row: float(
            np.mean(
                [np.mean(np.square(a, dtype=np.float64)) for r, a in zip(records, teacher_outputs, strict=True) if r.row == row]
            )
        )
        for row in rows
    }
    relative = {row: 1 / max(size, 1e-12) for row, size in sizes.items()}
    reach = dict(zip(rows, output_gains(calibration, range(len(rows))), strict=True)) if calibration.program.rows else {}
    total = sum(reach.values())
    mean = sum(relative.values()) / len(rows)
    if not total > 0:
        return [relative[record.row] / mean for record in records]
    return [0.5 * relative[record.row] / mean + 0.5 * reach[record.row] * len(rows) / total for record in records]
