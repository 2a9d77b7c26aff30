"""INT8 W8A8: weights and activations of convolutions and matrix products in 8 bits, as standard Q/DQ nodes.

Calibrated along the denoising trajectory; which layers stay in float is decided by measuring final samples from the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES
from aigc_edge.compress.recipes.int8 import Int8Recipe
from aigc_edge.compress.recipes.int8_activations import Int8Activations
from aigc_edge.compress.recipes.qat import QuantisationAware
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.config import option

CHEAP_SHARE = 6 / 7  # of the multiply-adds stay in int8 when `aim` is held instead of the budget


@FORMATS.register("int8")
@dataclass(frozen=True)
class Int8(QuantisationAware, Int8Activations):
    """Options of INT8.

    The engines need different graphs, and each is slower or less accurate with another's. onnxruntime: uint8 activations with a
    zero point (x86 multiplies unsigned by signed; behind a SiLU nearly twice the resolution) and quantised results, without which
    it has no int8 convolution. TensorRT: int8 activations with zero point 0, results not quantised. OpenVINO: uint8 activations,
    results not quantised, the two matrix products of attention in int8, and group norms that keep channels last.
    """

    name: ClassVar[str] = "int8"
    requires: ClassVar[tuple[str, ...]] = ("int8",)
    expected_psnr: ClassVar[float] = 20.0
    expected_size: ClassVar[float] = 0.27
    alternative: ClassVar[str] = "fp16"

    psnr: float = option(30.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    aim: float = option(
        36.0, "PSNR (dB) that is worth up to a seventh of the multiply-adds in float; 0: `psnr` alone counts", low=0
    )
    min_share: float = option(0.5, "least share of multiply-adds in int8: below it the budget counts as missed", low=0, high=1)
    rank: bool = option(True, "measure every layer alone even when the budget holds without (for the report)")
    floats: str = option("fp32", "what is not int8: fp32, or fp16 for GPUs", choices=("fp32", "fp16"))

    @property
    def everywhere(self) -> bool:
        return super().everywhere and self.floats == "fp32"

    @property
    def targets(self) -> list[tuple[Requirement, float]]:
        aim = Requirement(self.aim, self.centred_l2)
        cheap = [(aim, max(self.min_share, CHEAP_SHARE))] if self.aim > self.psnr else []
        return [*cheap, (self.requirement, self.min_share)]

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        assert reference is not None
        return Int8Recipe(
            SCHEMES[self.engine],
            model,
            reference,
            self.compute(model, reference.calibration),
            floats=self.floats,
            estimators=self.estimators,
        )
