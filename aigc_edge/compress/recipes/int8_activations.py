"""Options of the formats whose activations are int8: how ranges follow from calibration, and what is calibrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.calibration.compute_budget import ComputeBudget
from aigc_edge.compress.calibration.observers import ESTIMATORS
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES, adapt_for_engine
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision
from aigc_edge.compress.scaling.smooth import largest_inputs, smoothed
from aigc_edge.config import option


@dataclass(frozen=True)
class Int8Activations(MixedPrecision):
    """Options and calibration that `int8` and `w4a8` share; the graph is written for the engine of the option `engine`."""

    companion: ClassVar[str | None] = "int8w"

    engine: str = option("onnxruntime", "the engine that the graph is for", choices=tuple(SCHEMES))
    estimator: str = option("auto", "how ranges follow from calibration; auto measures all", choices=("auto", *ESTIMATORS))
    smooth: float = option(
        0.0, "SmoothQuant's strength, 0.5 is usual where a few channels are far larger; 0 = off", low=0, high=1
    )
    others: str = option(
        "same",
        "text encoders and latent decoders: the same format where the quality gate holds, or int8w always",
        choices=("same", "int8w"),
    )
    effort: float = option(1.0, "samples and measurements that large networks get, 1 is usual: time goes with it", above=0)

    @property
    def calibrates(self) -> bool:
        return True

    @property
    def everywhere(self) -> bool:
        return self.others == "same"

    @property
    def estimators(self) -> tuple[str, ...]:
        """Names of the estimators to try."""
        return tuple(ESTIMATORS) if self.estimator == "auto" else (self.estimator,)

    def computed_in(self, operator: str, inputs: int, rows: int, edge: bool) -> str | None:
        return "int8"

    def prepare(self, model: onnx.ModelProto, calibration: Calibration | None, threads: int) -> onnx.ModelProto:
        model = adapt_for_engine(model, self.engine)
        if not self.smooth or calibration is None:
            return model
        layers = SCHEMES[self.engine].layers(model)
        return smoothed(model, layers, largest_inputs(model, layers, calibration, threads), self.smooth)

    def reference(
        self, model: onnx.ModelProto, calibration: Calibration, threads: int, progress: Callable[[int, int], None]
    ) -> HeldOutReference:
        split = self.compute(model, calibration).split(calibration)
        return HeldOutReference(
            model, calibration, calibrates=False, threads=threads, progress=progress, split=split, whole_batches=True
        )

    def compute(self, model: onnx.ModelProto, calibration: Calibration) -> ComputeBudget:
        """What calibration may cost."""
        return ComputeBudget.of(SCHEMES[self.engine].layers(model), calibration, self.effort)
