"""The compute budget of calibration: samples and measurements, bounded in multiply-adds so that every machine does the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.compress.calibration.trajectory import Calibration, Inputs, Record
from aigc_edge.compress.graphs.graph import Layer

OBSERVE, MEASURE, RANK = 4e11, 1.6e11, 5e11  # multiply-adds: to observe ranges, for one measurement, to rank layers
SINGLE = 4  # evaluations that stand for all when whole trajectories would take too long


@dataclass(frozen=True)
class ComputeBudget:
    """The cost of one sample (`macs` of its whole trajectory of so many evaluations), and how much may be spent: 1 is usual."""

    macs: float
    scale: float = 1.0
    evaluations: int = 1

    @staticmethod
    def of(layers: Sequence[Layer], calibration: Calibration, scale: float) -> ComputeBudget:
        """The budget of a network with these layers along the program of `calibration`."""
        evaluations = sum(len(next(iter(record.inputs.values()))) for record in dry_run(calibration))
        return ComputeBudget(float(sum(layer.macs for layer in layers)) * evaluations, scale, evaluations)

    def split(self, calibration: Calibration) -> tuple[Calibration, Calibration]:
        """The samples to calibrate on and those to evaluate on: from either half as many as the budget allows."""
        half = len(calibration.latents) // 2
        first, second = calibration.divide(half, len(calibration.latents) - half)
        return first.split(self.observed(len(first.latents)))[0], second.split(self.measured(len(second.latents)))[0]

    def observed(self, most: int) -> int:
        """Number of samples that ranges are collected from."""
        return self._count(OBSERVE, most)

    def measured(self, most: int) -> int:
        """Number of samples that errors are measured on."""
        return self._count(MEASURE, most)

    def ranks_whole(self, trials: int, samples: int) -> bool:
        """Whether so many layers can be ranked by the final samples of whole trajectories."""
        return trials * samples * self.macs <= RANK * self.scale

    def trials(self, most: int, evaluations: int) -> int:
        """Number of groups of layers that are ranked on single evaluations, of which a trajectory has `evaluations`."""
        return max(1, min(most, max(12, int(RANK * self.scale * evaluations / (SINGLE * self.macs)))))

    def _count(self, budget: float, most: int) -> int:
        return max(1, min(most, int(budget * self.scale / max(self.macs, 1.0))))


def dry_run(calibration: Calibration) -> list[Record]:
    """The evaluations that one sample of `calibration` takes, without a network: its outputs are zeros."""
    records: list[Record] = []
    calibration.split(1)[0].run(lambda inputs: _zeros(calibration, inputs), records)
    return records


def evenly_spaced(count: int, most: int = SINGLE) -> list[int]:
    """At most `most` of the evaluations 0 … count - 1, evenly spaced, first and last among them."""
    return sorted({round(float(index)) for index in np.linspace(0, count - 1, min(most, count))})


def output_gains(calibration: Calibration, calls: Sequence[int], change: float = 1e-3) -> list[float]:
    """By how much the squared error of the network's output in each of `calls` is multiplied in the final sample.

    The network's reaction to the changed sample is left out, so these are weights for errors of single evaluations, not
    predictions.
    """
    one = calibration.split(1)[0]
    still = replace(one, latents=np.zeros_like(one.latents), limits=(-np.inf, np.inf))

    def final(changed: int) -> npt.NDArray[np.float32]:
        count = -1

        def evaluate(inputs: Inputs) -> list[npt.NDArray[np.float32]]:
            nonlocal count
            count += 1
            outputs = _zeros(calibration, inputs)
            return [output + np.float32(change) for output in outputs] if count == changed else outputs

        return still.run(evaluate)

    rest = final(-1)
    return [float(np.mean(np.square((final(call) - rest) / change))) for call in calls]


def _zeros(calibration: Calibration, inputs: Inputs) -> list[npt.NDArray[Any]]:
    """The outputs of the network for `inputs`."""
    batch = len(next(iter(inputs.values())))
    return [np.zeros((batch, *(int(size) for size in t.shape[1:])), np.float32) for t in calibration.spec.outputs]
