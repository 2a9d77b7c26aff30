"""INT8 weights, one scale a channel; arithmetic in float: a quarter of the size, next to no error, no calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.formats.base import FORMATS, channel_bytes
from aigc_edge.compress.formats.stored import Stored, WeightsOnly
from aigc_edge.compress.graphs.packing import int8_channels
from aigc_edge.compress.proving.mixture import Recipe
from aigc_edge.compress.proving.proof import Proof
from aigc_edge.config import option


@FORMATS.register("int8w")
@dataclass(frozen=True)
class Int8Weights(Stored):
    """Weights of convolutions, matrix products and embedding tables in int8, symmetric, scale = largest / 127."""

    name: ClassVar[str] = "int8w"
    requires: ClassVar[tuple[str, ...]] = ("int8w",)
    expected_psnr: ClassVar[float] = 35.0
    expected_size: ClassVar[float] = 0.26

    psnr: float = option(35.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return channel_bytes(outputs, inputs)

    def recipe(self, model: onnx.ModelProto, proof: Proof | None) -> Recipe:
        return WeightsOnly(self, model, int8_channels, opset=13, estimator="largest")
