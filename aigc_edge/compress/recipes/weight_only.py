"""Recipe of weight-only formats: weights are stored in few bits, dequantised, and multiplied in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx

from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.half import to_half
from aigc_edge.compress.graphs.opset import raise_opset
from aigc_edge.compress.graphs.rewrite import Change, rewritten
from aigc_edge.compress.graphs.weights import weight_input, weights_of
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.config import option

Pack = Callable[[Layer, npt.NDArray[Any]], Change | None]  # None: the weight does not fit the format
LEAST_SAVED = 512  # bytes: about what the nodes and names of a compressed weight take


@dataclass(frozen=True)
class WeightOnly(MixedPrecision):
    """Options of formats whose layers compute in float, or whose other layers do."""

    engine: str = option("onnxruntime", "the engine that the graph is for", choices=("onnxruntime", "tensorrt"))
    floats: str = option(
        "auto", "what the arithmetic is in: fp32, fp16, or auto: fp16 for TensorRT", choices=("auto", "fp32", "fp16")
    )

    @property
    def arithmetic(self) -> str:
        """fp32 or fp16."""
        automatic = "fp16" if self.engine == "tensorrt" else "fp32"
        return automatic if self.floats == "auto" else self.floats


class WeightOnlyRecipe(ConversionRecipe):
    """Layers that each have a `Change` to the format, which is made once and shared by all mixtures."""

    def __init__(self, format: WeightOnly, model: onnx.ModelProto, *, opset: int = 0, estimator: str | None = None) -> None:
        self.name, self.floats, self.estimator = format.name, format.arithmetic, estimator
        self.model = raise_opset(model, opset) if opset else model
        self.layers, self.float_layers = [], []
        self._changes: dict[str, Change] = {}

    def _add(self, layer: Layer, change: Change | None, *, always: bool = False) -> None:
        """Add a layer with its change, as one that stays in float where that saves too little, unless `always`."""
        if change is None or (layer.bytes - change.bytes < LEAST_SAVED and not always):
            self.float_layers.append(layer)
        else:
            self.layers.append(layer)
            self._changes[layer.node] = change

    def bytes_of(self, layer: Layer) -> int:
        return self._changes[layer.node].bytes

    def build(
        self,
        layers: Sequence[Layer],
        *,
        constants: Mapping[str, npt.NDArray[Any]] | None = None,
        keep: Collection[str] = (),
    ) -> onnx.ModelProto:
        """The model with `layers` in the format; `constants` replaces others, `keep` is for graphs.half.to_half."""
        model = rewritten(self.model, {layer.node: self._changes[layer.node] for layer in layers}, constants)
        return to_half(model, keep=keep) if self.floats == "fp16" else model


class PackedRecipe(WeightOnlyRecipe):
    """Every weight as `pack` stores it, where that saves space; with `inner`, weights that only bodies read too."""

    def __init__(
        self,
        format: WeightOnly,
        model: onnx.ModelProto,
        pack: Pack,
        *,
        opset: int,
        estimator: str | None = None,
        inner: bool = False,
    ) -> None:
        super().__init__(format, model, opset=opset, estimator=estimator)
        packed: dict[tuple[str, int, int], Change | None] = {}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for layer in weights_of(model, inner=inner):
            key = (layer.weight, layer.axis, weight_input(layer))
            if key not in packed:
                packed[key] = pack(layer, onnx.numpy_helper.to_array(constants[layer.weight]))
            self._add(layer, packed[key])
