"""Recipe of the 16-bit float formats: layers that do not hold the quality budget stay in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx

from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.half import HalfType, to_half
from aigc_edge.compress.graphs.weights import weights_of
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.weight_share import captured_weights


@dataclass(frozen=True)
class HalfPrecision(MixedPrecision):
    """Base of the 16-bit float formats."""

    constant_bytes: ClassVar[int] = 2

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        return 2 * outputs * inputs


class HalfPrecisionRecipe(ConversionRecipe):
    """Weights and arithmetic of the chosen layers in a 16-bit float."""

    def __init__(self, name: str, model: onnx.ModelProto, dtype: HalfType) -> None:
        self.name, self.model, self.float_layers, self._dtype = name, model, [], dtype
        self.layers = weights_of(model)

    def bytes_of(self, layer: Layer) -> int:
        return layer.bytes // 2

    def captured(self, model: onnx.ModelProto) -> dict[str, int]:
        return captured_weights(model.graph, self._dtype.onnx)

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        chosen = {layer.node for layer in layers}
        return to_half(self.model, self._dtype, keep={layer.node for layer in self.layers if layer.node not in chosen})
