"""Structured pruning: whole inner channels are removed, the weights behind them are refitted, and the network is fine-tuned.

Any engine runs the smaller network faster. Chosen by activation × weight energy along the trajectory, refitted by least squares
(He, Zhang and Sun 2017, arXiv 1707.06168), fine-tuned by distillation from the float32 network.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.channels.pruner import ChannelPruner
from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.evaluation.search import Trial, most_sensitive_layers, search
from aigc_edge.compress.format import FORMATS, Format, Progress
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.half import to_half
from aigc_edge.compress.graphs.weights import weights_of
from aigc_edge.compress.report import CompressionReport, LayerReport, stamped
from aigc_edge.compress.trainable.distillation import distillation_set
from aigc_edge.config import option
from aigc_edge.errors import BudgetError

HALVINGS = 4  # of the interval that the share is in, when the budget is missed


@FORMATS.register("pruned")
@dataclass(frozen=True)
class Pruned(Format):
    """Options of structured pruning; the remaining network is stored in float."""

    name: ClassVar[str] = "pruned"
    companion: ClassVar[str | None] = "fp32"
    expected_psnr: ClassVar[float] = 15.0

    share: float = option(0.25, "multiply-adds to remove, as a share; less where the budget asks for it", above=0, high=0.9)
    steps: int = option(1000, "most steps of fine-tuning; 0 = none", low=0)
    seconds: float = option(1800.0, "most time that fine-tuning may take, each time that it is tried", above=0)
    psnr: float = option(20.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    centred_l2: float = option(
        0.0, "largest error relative to what varies in the fp32 samples (mean removed); 0: 10^(1 − psnr/20)", low=0
    )
    multiple: int = option(
        8, "channels of wide layers go so many at a time: engines compute in blocks", choices=(1, 4, 8, 16, 32)
    )
    rate: float = option(1e-2, "size of the first steps of fine-tuning, relative to the weights", above=0, high=0.1)
    floats: str = option("fp32", "what the network is stored and computed in", choices=("fp32", "fp16"))

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        """An upper bound: which weights shrink depends on measurements."""
        return (2 if self.floats == "fp16" else 4) * outputs * inputs

    def converted(
        self, source: Path, calibration: Calibration | None, progress: Progress, threads: int
    ) -> tuple[onnx.ModelProto, CompressionReport]:
        return _Pruning(self, source, self.require(calibration), progress, threads).run()


@dataclass
class _Attempt:
    """The channels that were removed, and the resulting network."""

    removed: set[int]
    model: onnx.ModelProto
    before: float  # mean squared error of the samples, refitted but not fine-tuned
    after: float
    steps: int  # of fine-tuning


def _shares(most: float) -> Generator[float, bool, None]:
    """`most`, and when that misses the budget, the largest share that holds it, by bisection."""
    low, high = 0.0, most
    if (yield most):
        return
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (yield middle) else (low, middle)


class _Pruning:
    """Removes channels of one network, fine-tunes what is left and measures it."""

    def __init__(self, format: Pruned, source: Path, calibration: Calibration, progress: Progress, threads: int) -> None:
        self.format, self.source, self.progress = format, source, progress
        progress("reference", 0, 1)
        original = graph.load(source)
        self.reference = HeldOutReference(original, calibration, calibrates=True, threads=threads)
        progress("reference", 1, 1)
        self.allowed = self.reference.allowed_error(Requirement(format.psnr, format.centred_l2))
        self.pruner = ChannelPruner(original, self.reference, lambda *done: progress("rank channels", *done))
        self.pruner.choose(format.share, format.multiple)  # a share that cannot be reached is known before the work begins
        progress("learn from fp32", 0, 1)
        self.distillation = distillation_set(original, calibration, threads=threads) if format.steps else None
        progress("learn from fp32", 1, 1)

    def run(self) -> tuple[onnx.ModelProto, CompressionReport]:
        """The network with the largest share removed that holds the budget; raises BudgetError when none of those tried does."""

        def holds(attempt: _Attempt) -> bool:
            return attempt.after <= self.allowed

        best = search(_shares(self.format.share), self._attempt, holds, self._missed).result
        model = stamped(best.model, self.format.name)
        return model, self._report(best, model)

    def _attempt(self, share: float) -> _Attempt:
        format, threads = self.format, self.reference.threads
        removed = self.pruner.choose(share, format.multiple)
        model = self.pruner.build(removed)
        before = after = self._error(model)
        steps = 0
        if self.distillation is not None:
            from aigc_edge.compress.trainable.finetune import FineTuneSettings, finetune  # imports torch, which takes seconds

            settings = FineTuneSettings(steps=format.steps, seconds=format.seconds, rate=format.rate)
            report = partial(self.progress, "fine-tune")
            tuned = finetune(model, self.distillation, settings, progress=report, threads=threads)
            after, steps = self._error(tuned.model), tuned.steps
            model = tuned.model if after < before else model
        return _Attempt(removed, self._stored(model), before, min(before, after), steps)

    def _stored(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return to_half(model) if self.format.floats == "fp16" else model

    def _error(self, model: onnx.ModelProto) -> float:
        return self.reference.sample_error(graph.Network(self._stored(model), threads=self.reference.threads))

    def _missed(self, first: Trial[float, _Attempt], last: Trial[float, _Attempt]) -> BudgetError:
        reached = [
            f"{self.reference.describe(trial.result.after)} with {trial.candidate:.2f} of the multiply-adds removed"
            for trial in (first, last)
        ]
        return BudgetError(
            f"pruned reaches {reached[0]} and {reached[1]}, "
            f"{Requirement(self.format.psnr, self.format.centred_l2)} was requested: the most sensitive layers are "
            f"{most_sensitive_layers(self.pruner.predicted_errors(first.result.removed))}; lower the budget, or fine-tune longer "
            f"than {self.format.steps} steps"
        )

    def _report(self, best: _Attempt, model: onnx.ModelProto) -> CompressionReport:
        pruner = self.pruner
        return CompressionReport(
            format=self.format.name,
            source_bytes=graph.size_of(self.source),
            psnr=self.reference.psnr(best.after),
            centred_l2=self.reference.centred_l2(best.after),
            budget_psnr=self.format.psnr,
            psnr_before=self.reference.psnr(best.before),
            steps=best.steps,
            share=1.0 - pruner.costs.macs(best.removed) / pruner.total,
            macs_before=int(pruner.total),
            macs=int(pruner.costs.macs(best.removed)),
            n=self.reference.n,
            rows=self.reference.row_errors(graph.Network(model, threads=self.reference.threads)),
            groups={
                group.name: {
                    "channels": group.channels,
                    "kept": sum(unit.channels for unit in group.units if unit.root not in best.removed),
                }
                for group in pruner.groups
            },
            nodes=_nodes(self.format, pruner, best.removed),
        )


def _nodes(format: Pruned, pruner: ChannelPruner, removed: set[int]) -> dict[str, LayerReport]:
    """What became of every layer; its error is that of losing half of its channels."""
    now = {layer.node: layer for layer in weights_of(pruner.build(removed, refit=False))}
    errors = {group.name: math.sqrt(group.error(0.5)) for group in pruner.groups}
    each = 2 if format.floats == "fp16" else 1
    nodes: dict[str, LayerReport] = {}
    for before in pruner.costs.layers.values():
        layer = now[before.node]
        nodes[before.name] = LayerReport(
            format=format.name if layer.bytes < before.bytes else format.floats,
            error=errors.get(before.name),
            bytes=layer.bytes // each,
            macs=layer.macs,
            macs_before=before.macs,
        )
    return nodes
