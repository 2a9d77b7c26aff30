"""INT8 W8A8: weights and activations of convolutions and matrix products in 8 bits, as standard Q/DQ nodes.

Calibrated along the denoising trajectory; which layers stay in float is decided by measuring final samples from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.calibration.compute_budget import ComputeBudget
from aigc_edge.compress.calibration.observers import ESTIMATORS
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES, adapt_for_engine
from aigc_edge.compress.recipes.int8 import Int8Recipe
from aigc_edge.compress.recipes.qat import QuantisationAware
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.scaling.smooth import largest_inputs, smoothed
from aigc_edge.config import option

CHEAP_SHARE = 6 / 7  # of the multiply-adds stay in int8 when `aim` is held instead of the budget


@FORMATS.register("int8")
@dataclass(frozen=True)
class Int8(QuantisationAware):
    """Options of INT8.

    The engines need different graphs, and each is slower or less accurate with another's. onnxruntime: uint8 activations with a
    zero point (x86 multiplies unsigned by signed; behind a SiLU nearly twice the resolution) and quantised results, without which
    it has no int8 convolution. TensorRT: int8 activations with zero point 0, results not quantised. OpenVINO: uint8 activations,
    results not quantised, the two matrix products of attention in int8, and group norms that keep channels last.
    """

    name: ClassVar[str] = "int8"
    requires: ClassVar[tuple[str, ...]] = ("int8",)
    companion: ClassVar[str | None] = "int8w"
    expected_psnr: ClassVar[float] = 20.0
    expected_size: ClassVar[float] = 0.27
    alternative: ClassVar[str] = "fp16"

    engine: str = option("onnxruntime", "the engine that the graph is for", choices=tuple(SCHEMES))
    psnr: float = option(30.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    aim: float = option(
        36.0, "PSNR (dB) that is worth up to a seventh of the multiply-adds in float; 0: `psnr` alone counts", low=0
    )
    estimator: str = option("auto", "how ranges follow from calibration; auto measures all", choices=("auto", *ESTIMATORS))
    min_share: float = option(0.5, "least share of multiply-adds in int8: below it the budget counts as missed", low=0, high=1)
    rank: bool = option(True, "measure every layer alone even when the budget holds without (for the report)")
    smooth: float = option(
        0.0, "SmoothQuant's strength, 0.5 is usual where a few channels are far larger; 0 = off", low=0, high=1
    )
    effort: float = option(1.0, "samples and measurements that large networks get, 1 is usual: time goes with it", above=0)
    others: str = option(
        "int8",
        "text encoders and latent decoders: int8 where the quality gate holds, or int8w always",
        choices=("int8", "int8w"),
    )
    floats: str = option("fp32", "what is not int8: fp32, or fp16 for GPUs", choices=("fp32", "fp16"))

    @property
    def calibrates(self) -> bool:
        return True

    @property
    def everywhere(self) -> bool:
        return self.others == "int8" and self.floats == "fp32"

    @property
    def targets(self) -> list[tuple[Requirement, float]]:
        aim = Requirement(self.aim, self.centred_l2)
        cheap = [(aim, max(self.min_share, CHEAP_SHARE))] if self.aim > self.psnr else []
        return [*cheap, (self.requirement, self.min_share)]

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

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
        split = self._compute(model, calibration).split(calibration)
        return HeldOutReference(
            model, calibration, calibrates=False, threads=threads, progress=progress, split=split, whole_batches=True
        )

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        assert reference is not None
        estimators = tuple(ESTIMATORS) if self.estimator == "auto" else (self.estimator,)
        compute = self._compute(model, reference.calibration)
        return Int8Recipe(SCHEMES[self.engine], model, reference, compute, floats=self.floats, estimators=estimators)

    def _compute(self, model: onnx.ModelProto, calibration: Calibration) -> ComputeBudget:
        return ComputeBudget.of(SCHEMES[self.engine].layers(model), calibration, self.effort)
