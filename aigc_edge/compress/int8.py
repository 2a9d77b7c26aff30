"""INT8 W8A8: weights and activations of convolutions and matrix products in 8 bits, as standard Q/DQ nodes.

Calibrated along the denoising trajectory; what stays in float is decided by measurement of the final sample from the same noise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx

from aigc_edge.compress import graph, search
from aigc_edge.compress.calibration import Calibration, Record, mean_square, psnr, row_errors
from aigc_edge.compress.formats import FORMATS, Format, Progress, convert
from aigc_edge.compress.graph import Layer
from aigc_edge.compress.half import to_half
from aigc_edge.compress.observers import ESTIMATORS, Observer, Scale, scale_of
from aigc_edge.compress.qdq import Writer, observed
from aigc_edge.compress.report import finite, stamped
from aigc_edge.config import option
from aigc_edge.errors import AigcEdgeError, BudgetError

CHEAP_SHARE = 6 / 7  # of the multiply-adds stay in int8 when a better figure than the budget is aimed for


@FORMATS.register("int8")
@dataclass(frozen=True)
class Int8(Format):
    """Options of INT8.

    The two engines want different graphs, and either is worse in the other's form. onnxruntime: uint8 activations with a zero
    point (x86 multiplies unsigned by signed; behind a SiLU nearly twice the resolution) and quantised results, without which it
    has no int8 convolution. TensorRT: int8 activations with zero point 0, results not quantised.
    """

    name: ClassVar[str] = "int8"
    engine: str = option("onnxruntime", "the engine that the graph is for", choices=("onnxruntime", "tensorrt"))
    psnr: float = option(30.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    aim: float = option(
        36.0, "PSNR (dB) that is worth up to a seventh of the multiply-adds in float; 0 = the least will do", low=0
    )
    estimator: str = option("auto", "how ranges follow from calibration; auto measures all", choices=("auto", *ESTIMATORS))
    min_share: float = option(0.5, "least share of multiply-adds in int8: below it the budget counts as missed", low=0, high=1)
    rank: bool = option(True, "measure every layer alone even when the budget holds without (for the report)")
    trials: int = option(64, "most measurements to rank layers with: more layers than that are ranked in groups", low=1)
    floats: str = option("fp32", "what is not int8: fp32, or fp16 for GPUs", choices=("fp32", "fp16"))


class _Trials:
    """One network's quantised versions, measured on held-out noise."""

    def __init__(self, format: Int8, original: onnx.ModelProto, calibration: Calibration, threads: int) -> None:
        self.format = format
        self.original = original
        self.threads = threads
        self.layers = graph.layers(original)
        count = len(calibration.latents)
        if count < 2:
            raise AigcEdgeError(
                f"{count} calibration samples given: int8 needs at least 2, one part to calibrate and one to measure on"
            )
        self.seen, self.held = calibration.split(count // 2)
        self.reference = graph.Network(original, threads=threads)
        self.records: list[Record] = []
        self.wanted = self.held.run(self.reference, self.records)
        self.observers: dict[str, Observer] = {}
        self.scales: dict[str, Scale] = {}
        self.measured = 0

    @property
    def symmetric(self) -> bool:
        return self.format.engine == "tensorrt"

    def observe(self) -> None:
        """Collect the ranges of every tensor that may be quantised, along the trajectory of the calibration samples."""
        records: list[Record] = []
        self.seen.run(self.reference, records)
        tensors = observed(self.original, self.layers)
        self.observers = {name: Observer() for name in sorted(tensors)}
        watched = onnx.ModelProto()
        watched.CopyFrom(self.original)
        inputs = {value.name for value in watched.graph.input}
        present = {value.name for value in watched.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(tensors - inputs - present))
        network = graph.Network(watched, threads=self.threads)
        for record in records:
            values = dict(zip(network.outputs, network(record.inputs), strict=True)) | record.inputs
            for name, observer in self.observers.items():
                observer.see(values[name], record.row)

    def calibrate(self, estimator: str) -> None:
        """Set the scales by one of the estimators."""
        estimate = ESTIMATORS[estimator]
        ranges = {name: estimate(observer, self.symmetric) for name, observer in self.observers.items()}
        self.scales = {name: scale_of(low, high, self.symmetric) for name, (low, high) in ranges.items()}
        self.writer = Writer(self.original, self.scales, symmetric=self.symmetric, fused=not self.symmetric)

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        model = self.writer.write(layers)
        return to_half(model) if self.format.floats == "fp16" else model

    def network(self, model: onnx.ModelProto) -> graph.Network:
        return graph.Network(model, threads=self.threads, exact=self.symmetric)

    def measure(self, layers: Sequence[Layer]) -> float:
        """Mean squared error of the final samples with `layers` in int8."""
        self.measured += 1
        return mean_square(self.held.run(self.network(self.build(layers))), self.wanted)


@convert.register
def _(
    format: Int8,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    if calibration is None:
        raise AigcEdgeError(
            "int8 needs calibration data: give a Calibration (Calibration.draw makes one from a sampling program)"
        )
    tell = progress or (lambda stage, done, total: None)
    tell("calibrate", 0, 1)
    trials = _Trials(format, graph.load(source), calibration, threads)
    layers = trials.layers
    if not layers:
        raise AigcEdgeError(f"{source} has no convolution or matrix product with constant weights: there is nothing to quantise")
    trials.observe()
    tell("calibrate", 1, 1)
    estimators = _try_estimators(format, trials, tell)
    best = min(estimators, key=lambda name: estimators[name])
    trials.calibrate(best)
    limits = calibration.limits
    if format.rank or psnr(estimators[best], limits) < max(format.psnr, format.aim):
        ranking = search.rank(layers, trials.measure, estimators[best], format.trials, lambda *done: tell("rank layers", *done))
    else:
        ranking = search.Ranking(estimators[best])
    kept, error = _choose(format, layers, ranking, trials, limits)
    model = stamped(trials.build(kept), "int8")
    rows = row_errors(trials.network(model), trials.reference, trials.records, calibration.program)
    graph.write(model, out)
    size = mean_square(trials.wanted, np.zeros(1)) or 1.0
    names = {layer.name for layer in kept}
    return {
        "format": "int8",
        "engine": format.engine,
        "bytes": graph.size_of(out),
        "source_bytes": graph.size_of(source),
        "psnr": finite(psnr(error, limits)),
        "budget_psnr": format.psnr,
        "aimed_psnr": format.aim,
        "all_int8_psnr": finite(psnr(estimators[best], limits)),
        "estimator": best,
        "estimators": {name: finite(psnr(value, limits)) for name, value in estimators.items()},
        "int8_macs": sum(layer.macs for layer in kept) / sum(layer.macs for layer in layers),
        "n": len(trials.held.latents),
        "trials": trials.measured,
        "nodes": {
            layer.name: {
                "format": "int8" if layer.name in names else format.floats,
                "error": math.sqrt(ranking.alone[layer.name] / size) if layer.name in ranking.alone else None,
                "bytes": layer.bytes // 4 if layer.name in names else layer.bytes // (2 if format.floats == "fp16" else 1),
                "macs": layer.macs,
            }
            for layer in layers
        },
        "ranges": {
            name: {
                "low": observer.low,
                "high": observer.high,
                "rows": {str(row): list(ends) for row, ends in observer.rows.items()},
            }
            for name, observer in trials.observers.items()
        },
        "rows": rows,
    }


def _choose(
    format: Int8, layers: Sequence[Layer], ranking: search.Ranking, trials: _Trials, limits: tuple[float, float]
) -> tuple[list[Layer], float]:
    """The layers in int8 and their error: what is aimed for where that is cheap, else what the budget asks for."""

    def choose(least: float, share: float) -> tuple[list[Layer], float]:
        target = (limits[1] - limits[0]) ** 2 / 10 ** (least / 10)
        return search.choose(layers, ranking, trials.measure, target, share, limits)

    if format.aim > format.psnr:
        with contextlib.suppress(BudgetError):
            return choose(format.aim, max(format.min_share, CHEAP_SHARE))
    return choose(format.psnr, format.min_share)


def _try_estimators(format: Int8, trials: _Trials, tell: Progress) -> dict[str, float]:
    """Mean squared error with all layers in int8, by estimator."""
    names = list(ESTIMATORS) if format.estimator == "auto" else [format.estimator]
    errors = {}
    for index, name in enumerate(names):
        trials.calibrate(name)
        errors[name] = trials.measure(trials.layers)
        tell("choose ranges", index + 1, len(names))
    return errors
