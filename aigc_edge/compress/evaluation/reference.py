"""The held-out reference: samples and evaluations of the float32 network that compressed networks are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.trajectory import Calibration, Evaluate, Inputs, Record, mean_square, psnr, row_errors
from aigc_edge.compress.evaluation.quality import Requirement, centred
from aigc_edge.compress.graphs import graph

PASS_MACS = 4e11  # multiply-adds of one pass over the program: about 15 s on one core
QUICK_EVALUATIONS = 4  # that `output_error` compares
ROW_SAMPLES = 2  # of each row's batch that `row_errors` compares


class HeldOutReference:
    """The float32 network along its program: samples to compare with, and the inputs that formats may be calibrated on.

    Formats that calibrate see the first samples (`calibration_records`) and are evaluated on others; other formats are evaluated
    on all. Of large networks part of the samples is used, as PASS_MACS allows, but at least one of either kind; `split` gives
    both parts instead. Only results of the float32 network are kept, of each batch a few samples, or all with `whole_batches`.
    Recipes report to `progress` how many layers they have calibrated, and of how many.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Calibration,
        *,
        calibrates: bool,
        threads: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        split: tuple[Calibration, Calibration] | None = None,
        whole_batches: bool = False,
    ) -> None:
        self.threads, self.progress = threads, progress
        self.calibration = calibration
        self.calibrating, self.held_out = split or _split(model, calibration, calibrates)
        network = graph.Network(model, threads=threads)
        self.calibration_records: list[Record] = []
        if calibrates:
            self.calibrating.run(network, self.calibration_records)
        records: list[Record] = []
        outputs: list[npt.NDArray[Any]] = []

        def recorded(inputs: Inputs) -> list[npt.NDArray[Any]]:
            result = network(inputs)
            outputs.append(result[0])
            return result

        self.samples = self.held_out.run(recorded, records)
        guided = self.calibration.classes is not None
        positions: list[Any] = [slice(None) if whole_batches else _positions(len(output), guided) for output in outputs]
        self.records = [
            replace(record, inputs={name: value[rows] for name, value in record.inputs.items()})
            for record, rows in zip(records, positions, strict=True)
        ]
        self.outputs = [output[rows] for output, rows in zip(outputs, positions, strict=True)]

        self.range = float(self.samples.min()), float(self.samples.max())
        self._energy = float(np.mean(np.square(centred(self.samples))))

    def psnr(self, mean_squared: float) -> float:
        """PSNR in dB of a mean squared error of the samples; its peak is the samples' own range."""
        return psnr(mean_squared, self.range)

    def centred_l2(self, mean_squared: float) -> float:
        """The error relative to what varies in the samples, see `metrics.paired.centred_l2`."""
        return math.sqrt(mean_squared / self._energy) if self._energy else math.inf if mean_squared else 0.0

    def allowed_error(self, requirement: Requirement) -> float:
        """The largest mean squared error of the samples that meets `requirement`."""
        if requirement.psnr <= 0 and not requirement.centred_l2:
            return math.inf
        peak = self.range[1] - self.range[0]
        return min(peak**2 / 10 ** (requirement.psnr / 10), requirement.most_centred_l2**2 * self._energy)

    def describe(self, mean_squared: float) -> str:
        """The quality that a mean squared error of the samples is, for messages."""
        return (
            f"{self.psnr(mean_squared):.1f} dB and a centred L2 error of {self.centred_l2(mean_squared):.2g} (against fp32 from "
            "the same noise)"
        )

    @property
    def n(self) -> int:
        """The number of samples that are compared."""
        return len(self.held_out.latents)

    def sample_error(self, evaluate: Evaluate) -> float:
        """Mean squared error of the final samples of the network `evaluate`."""
        return mean_square(self.held_out.run(evaluate), self.samples)

    def output_error(self, evaluate: Evaluate) -> float:
        """Relative squared error of the network's output in a few rows: precise enough to rank layers by."""
        chosen = np.unique(np.linspace(0, len(self.records) - 1, QUICK_EVALUATIONS).astype(int))
        errors = 0.0
        for index in chosen:
            size = mean_square(self.outputs[index], np.zeros(1)) or 1.0
            errors += mean_square(evaluate(self.records[index].inputs)[0], self.outputs[index]) / size
        return errors / len(chosen) if math.isfinite(errors) else math.inf

    def row_errors(self, evaluate: Evaluate) -> list[dict[str, Any]]:
        """Relative L2 error of the network's output in every row, both networks given the same input."""
        outputs = iter(self.outputs)
        return row_errors(evaluate, lambda inputs: [next(outputs)], self.records, self.calibration.program)


def _positions(batch: int, guided: bool) -> Sequence[int]:
    """A few samples of a batch; of a guided batch, which holds both halves, from either."""
    few = min(batch, ROW_SAMPLES)
    return [*range(few - few // 2), *range(batch - few // 2, batch)] if guided else list(range(few))


def _split(model: onnx.ModelProto, calibration: Calibration, calibrates: bool) -> tuple[Calibration, Calibration]:
    """The samples to calibrate on (none unless `calibrates`) and those to evaluate on, as many as PASS_MACS allows."""
    samples, rows = len(calibration.latents), max(1, len(calibration.program.rows))
    each = sum(layer.macs for layer in graph.layers(model)) * rows * (2 if calibration.classes is not None else 1)
    count = min(samples, max(2, int(PASS_MACS / max(each, 1))))
    seen = max(1, count // 2) if calibrates else 0
    return calibration.divide(seen, max(1, count - seen))
