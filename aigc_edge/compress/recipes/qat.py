"""Quantisation-aware training: weights and what is in float learn with the rounding of the format in the loop.

The converted network is trained as it will be written (Jacob et al. 2018, arXiv 1712.05877): ranges and scales come from
calibration and stay, the master weights behind the integer codes move (straight-through), towards the float32 network's outputs
along the trajectory.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.evaluation.search import Trial, search
from aigc_edge.compress.format import Progress
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.recipes.mixed_precision import Conversion, MixedPrecision, convert_layers
from aigc_edge.compress.report import CompressionReport
from aigc_edge.compress.trainable.distillation import DistillationSet, distillation_set
from aigc_edge.config import names, option
from aigc_edge.errors import BudgetError

SLACK = 0.25  # dB above what training is expected to make up for, when layers fall back to float before it
LONGEST = 1800.0  # seconds of each training


@dataclass(frozen=True)
class QuantisationAware(MixedPrecision):
    """Options of formats whose converted network can be trained."""

    qat: int = option(0, "steps of training with the rounding in the loop; 0 = none", low=0)

    def converted(
        self, source: Path, calibration: Calibration | None, progress: Progress, threads: int
    ) -> tuple[onnx.ModelProto, CompressionReport]:
        if not self.qat:
            return super().converted(source, calibration, progress, threads)
        return _Training(self, source, self.require(calibration), progress, threads).run()


@dataclass
class _Trained:
    """A conversion after training, or as it was where that is better; its mean squared errors and the steps taken."""

    conversion: Conversion
    model: onnx.ModelProto
    before: float
    after: float
    steps: int


class _Training:
    """Converts and trains until the budget holds.

    All layers are tried first. When they miss the budget, so many fall back to float that training makes up for the rest; last,
    as many as the budget needs without training.
    """

    def __init__(
        self, format: QuantisationAware, source: Path, calibration: Calibration, progress: Progress, threads: int
    ) -> None:
        self.format, self.source, self.calibration = format, source, calibration
        self.progress, self.threads = progress, threads
        original = graph.load(source)
        self.reference = HeldOutReference(original, calibration, calibrates=True, threads=threads)
        progress("learn from fp32", 0, 1)
        self.distillation: DistillationSet = distillation_set(original, calibration, threads=threads)
        progress("learn from fp32", 1, 1)
        self.untrained = replace(format, qat=0)
        self.gain = 0.0  # dB that the last training brought

    def run(self) -> tuple[onnx.ModelProto, CompressionReport]:
        """The trained model and its report."""
        best = search(self._formats(), self._train, self._holds, self._missed).result
        assert best is not None
        report = best.conversion.report
        before, report.psnr = self.reference.psnr(best.before), self.reference.psnr(best.after)
        report.centred_l2 = self.reference.centred_l2(best.after)
        report.rows = self.reference.row_errors(self._network(best.model))
        report.budget_psnr = self.format.psnr
        report.qat = {"steps": best.steps, "psnr_before": before, "psnr_after": report.psnr, "n": self.reference.n}
        return best.model, report

    def _formats(self) -> Generator[QuantisationAware, bool, None]:
        if (yield self._with_budget(0.0)):
            return
        if not (yield self._with_budget(max(0.0, self.format.psnr - self.gain + SLACK))):
            yield self.untrained

    def _with_budget(self, psnr: float) -> QuantisationAware:
        options: dict[str, Any] = {"psnr": psnr, "centred_l2": 0.0, "aim": 0.0, "rank": False}
        known = names(type(self.format))
        return replace(self.untrained, **{name: value for name, value in options.items() if name in known})

    def _train(self, format: QuantisationAware) -> _Trained | None:
        try:
            conversion = convert_layers(format, self.source, self.calibration, self.progress, self.threads)
        except BudgetError:
            if format is self.untrained:
                raise
            return None
        from aigc_edge.compress.trainable.finetune import FineTuneSettings, finetune  # imports torch, which takes seconds

        before = self.reference.sample_error(self._network(conversion.model))
        tuned = finetune(
            conversion.model,
            self.distillation,
            FineTuneSettings(steps=self.format.qat, seconds=LONGEST),
            master_weights=conversion.recipe.master_weights(),
            progress=lambda *done: self.progress("train", *done),
            threads=self.threads,
        )
        after = self.reference.sample_error(self._network(tuned.model))
        self.gain = max(0.0, self.reference.psnr(after) - self.reference.psnr(before))
        model = tuned.model if after < before else conversion.model
        return _Trained(conversion, model, before, min(before, after), tuned.steps)

    def _holds(self, trained: _Trained | None) -> bool:
        return trained is not None and trained.after <= self.reference.allowed_error(self.format.requirement)

    def _missed(self, first: Trial[QuantisationAware, _Trained], last: Trial[QuantisationAware, _Trained]) -> BudgetError:
        trained = last.result
        return BudgetError(
            f"{self.format.name} with {trained.steps} steps of training reaches {self.reference.describe(trained.after)}, "
            f"{self.format.requirement} was requested: lower the budget, train longer, or use another format"
        )

    def _network(self, model: onnx.ModelProto) -> graph.Network:
        return graph.Network(folded(model), threads=self.threads, exact=True)
