"""What the 16-bit float formats share: layers that do not hold the quality budget stay in float32."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.half import HalfType, to_half
from aigc_edge.compress.graphs.weights import weights_of
from aigc_edge.compress.recipes.mixed_precision import ConversionRecipe


class HalfPrecisionRecipe(ConversionRecipe):
    """Weights and arithmetic of all layers, or of those chosen, in a 16-bit float."""

    def __init__(self, name: str, model: onnx.ModelProto, kind: HalfType) -> None:
        self.name, self.model, self.small, self._kind = name, model, [], kind
        self.layers = weights_of(model)

    def bytes_of(self, layer: Layer) -> int:
        return layer.bytes // 2

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        chosen = {layer.node for layer in layers}
        return to_half(self.model, self._kind, keep={layer.node for layer in self.layers if layer.node not in chosen})
