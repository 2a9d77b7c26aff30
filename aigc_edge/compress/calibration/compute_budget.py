"""How many samples and measurements a network can afford: bounded in multiply-adds, so that every machine does the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aigc_edge.compress.calibration.trajectory import Calibration, Record

OBSERVE, MEASURE, RANK = 4e11, 1.6e11, 5e11  # multiply-adds: to see ranges, for one measurement, for the ranking of layers
SPOTS = 4  # rows of the program that stand for all when whole trajectories would take too long


@dataclass(frozen=True)
class ComputeBudget:
    """What one sample costs (`macs`, the whole trajectory), and how much may be spent in all, 1 for the usual."""

    macs: float
    scale: float = 1.0

    def seen(self, most: int) -> int:
        """Samples that ranges are collected from."""
        return self._count(OBSERVE, most)

    def held(self, most: int) -> int:
        """Samples that errors are measured on."""
        return self._count(MEASURE, most)

    def ranks_whole(self, trials: int, samples: int) -> bool:
        """Whether so many layers can be ranked by the final samples of whole trajectories."""
        return trials * samples * self.macs <= RANK * self.scale

    def trials(self, most: int, evaluations: int) -> int:
        """Groups of layers that are ranked on single evaluations (multiply-adds of one: the trajectory's over `evaluations`)."""
        return max(1, min(most, max(12, int(RANK * self.scale * evaluations / (SPOTS * self.macs)))))

    def _count(self, budget: float, most: int) -> int:
        return max(1, min(most, int(budget * self.scale / max(self.macs, 1.0))))


def dry_run(calibration: Calibration) -> list[Record]:
    """The evaluations that one sample of `calibration` takes, without a network: its outputs are zeros."""
    one, _ = calibration.split(1)
    shape = [int(size) for size in calibration.spec.outputs[0].shape[1:]]
    records: list[Record] = []
    one.run(lambda inputs: [np.zeros((len(next(iter(inputs.values()))), *shape), np.float32)], records)
    return records


def spots(count: int, most: int = SPOTS) -> list[int]:
    """At most `most` of the evaluations 0 … count - 1, evenly spread, first and last among them."""
    return sorted({round(float(index)) for index in np.linspace(0, count - 1, min(most, count))})


def gains(calibration: Calibration, calls: Sequence[int], change: float = 1e-3) -> list[float]:
    """Mean square that a change of the network's output in each of `calls` makes of the final sample, the network else at rest.

    The network's answer to the changed sample is left out, so these are weights for errors of single evaluations, no predictions.
    """
    one, _ = calibration.split(1)
    still = type(one)(**{**vars(one), "latents": np.zeros_like(one.latents), "limits": (-np.inf, np.inf)})
    shape = [int(size) for size in calibration.spec.outputs[0].shape[1:]]

    def final(changed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        count = -1

        def evaluate(inputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[np.ndarray]:
            nonlocal count
            count += 1
            made = np.zeros((len(next(iter(inputs.values()))), *shape), np.float32)
            return [made + np.float32(change) if count == changed else made]

        return still.run(evaluate)

    rest = final(-1)
    return [float(np.mean(np.square((final(call) - rest) / change))) for call in calls]
