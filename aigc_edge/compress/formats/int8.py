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

from aigc_edge.compress.calibration.observers import ESTIMATORS
from aigc_edge.compress.calibration.trajectory import Calibration, mean_square, psnr
from aigc_edge.compress.evaluation import fallback
from aigc_edge.compress.format import FORMATS, Format, Progress, channel_bytes, convert
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES, adapt_for_engine
from aigc_edge.compress.recipes.int8 import Trials
from aigc_edge.compress.recipes.qat import converted
from aigc_edge.compress.report import finite, stamped
from aigc_edge.compress.scaling.smooth import largest, smoothed
from aigc_edge.config import option
from aigc_edge.errors import AigcEdgeError, BudgetError

CHEAP_SHARE = 6 / 7  # of the multiply-adds stay in int8 when a better figure than the budget is aimed for


@FORMATS.register("int8")
@dataclass(frozen=True)
class Int8(Format):
    """Options of INT8.

    The engines want different graphs, and each is worse in another's form. onnxruntime: uint8 activations with a zero point (x86
    multiplies unsigned by signed; behind a SiLU nearly twice the resolution) and quantised results, without which it has no int8
    convolution. TensorRT: int8 activations with zero point 0, results not quantised. OpenVINO: uint8 activations, results not
    quantised, the two products of attention in int8, and group norms that keep channels last.
    """

    name: ClassVar[str] = "int8"
    companion: ClassVar[str | None] = "int8w"
    engine: str = option("onnxruntime", "the engine that the graph is for", choices=tuple(SCHEMES))
    psnr: float = option(30.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    aim: float = option(
        36.0, "PSNR (dB) that is worth up to a seventh of the multiply-adds in float; 0 = the least will do", low=0
    )
    estimator: str = option("auto", "how ranges follow from calibration; auto measures all", choices=("auto", *ESTIMATORS))
    min_share: float = option(0.5, "least share of multiply-adds in int8: below it the budget counts as missed", low=0, high=1)
    rank: bool = option(True, "measure every layer alone even when the budget holds without (for the report)")
    trials: int = option(64, "most measurements to rank layers with: more layers than that are ranked in groups", low=1)
    smooth: float = option(
        0.0, "SmoothQuant's strength, 0.5 is usual where a few channels are far larger; 0 = off", low=0, high=1
    )
    effort: float = option(1.0, "samples and measurements that large networks get, 1 is usual: time goes with it", above=0)
    floats: str = option("fp32", "what is not int8: fp32, or fp16 for GPUs", choices=("fp32", "fp16"))
    qat: int = option(0, "steps of training with the rounding in the loop; 0 = none", low=0)

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

    def computed_in(self, operator: str, inputs: int, rows: int, edge: bool) -> str | None:
        return "int8"


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
    if format.qat:
        return converted(format, source, out, calibration, progress, threads)
    tell = progress or (lambda stage, done, total: None)
    tell("calibrate", 0, 1)
    original = adapt_for_engine(graph.load(source), format.engine)
    if format.smooth:
        layers = SCHEMES[format.engine].layers(original)
        original = smoothed(original, layers, largest(original, layers, calibration, threads), format.smooth)
    trials = Trials(SCHEMES[format.engine], original, calibration, threads, half=format.floats == "fp16", effort=format.effort)
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
        ranking = _rank(format, layers, trials, estimators[best], tell)
    else:
        ranking = fallback.Ranking(estimators[best])
    kept, error = _choose(format, layers, ranking, trials, limits)
    model = stamped(trials.build(kept), "int8")
    rows = trials.rows(model)
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
                "node": layer.node,
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


def _rank(format: Int8, layers: Sequence[Layer], trials: Trials, everything: float, tell: Progress) -> fallback.Ranking:
    """Each layer's part in the final error: measured alone over whole trajectories, of large networks on single evaluations."""
    count = min(format.trials, len(layers))
    if trials.effort.ranks_whole(count, len(trials.held.latents)):
        return fallback.rank(layers, trials.measure, everything, count, lambda *done: tell("rank layers", *done))
    count = trials.effort.trials(count, trials.evaluations)
    ranking = fallback.rank(layers, trials.measure_once, everything, count, lambda *done: tell("rank layers", *done))
    total = sum(ranking.alone.values())
    if 0 < total < math.inf and math.isfinite(everything):  # shares of the final error
        ranking.alone = {name: error * everything / total for name, error in ranking.alone.items()}
    return ranking


def _choose(
    format: Int8, layers: Sequence[Layer], ranking: fallback.Ranking, trials: Trials, limits: tuple[float, float]
) -> tuple[list[Layer], float]:
    """The layers in int8 and their error: what is aimed for where that is cheap, else what the budget asks for."""

    def choose(least: float, share: float) -> tuple[list[Layer], float]:
        target = (limits[1] - limits[0]) ** 2 / 10 ** (least / 10)
        return fallback.choose(layers, ranking, trials.measure, target, share, limits)

    if format.aim > format.psnr:
        with contextlib.suppress(BudgetError):
            return choose(format.aim, max(format.min_share, CHEAP_SHARE))
    return choose(format.psnr, format.min_share)


def _try_estimators(format: Int8, trials: Trials, tell: Progress) -> dict[str, float]:
    """Mean squared error with all layers in int8, by estimator."""
    names = list(ESTIMATORS) if format.estimator == "auto" else [format.estimator]
    errors = {}
    for index, name in enumerate(names):
        trials.calibrate(name)
        errors[name] = trials.measure(trials.layers)
        tell("choose ranges", index + 1, len(names))
    return errors
