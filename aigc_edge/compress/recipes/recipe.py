"""One network in one format: which layers the format can hold, and the model with any choice of them in the format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.evaluation.fallback import Progress, Ranking, rank_layers
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.emulation import in_float32
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.report import CompressionReport


class ConversionRecipe(ABC):
    """How one network becomes one of a format; derived classes set the attributes when they are created."""

    name: str
    layers: list[Layer]
    float_layers: list[Layer]  # stay in float in any case: the format would save nothing, or cannot hold them
    floats: str = "fp32"  # what layers that fall back are stored in
    estimator: str | None = None  # how the scales were chosen
    cost_name: str = "weights"  # what `cost` measures, in messages

    @abstractmethod
    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        """The model with exactly `layers` in the format, as it is written."""

    @abstractmethod
    def bytes_of(self, layer: Layer) -> int:
        """Bytes of the layer's weight in the format."""

    def format_of(self, layer: Layer) -> str:
        """The format that the layer is stored in: some layers suit a neighbouring format better."""
        return self.name

    def captured(self, model: onnx.ModelProto) -> dict[str, int]:
        """The sizes of the weights, by name, that bodies of the written `model` read and that are in the format."""
        return {}

    def cost(self, layer: Layer) -> int:
        """What is lost when the layer falls back to float: its bytes, or its multiply-adds."""
        return layer.bytes

    def complete(self, report: CompressionReport) -> None:
        """Add what only this recipe knows to the report."""
        return  # nothing

    def master_weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """By the name of a tensor of integer codes: the float32 values that were rounded to them, in units of their scale.

        For quantisation-aware training. A value that was clamped is its code: it would get no gradient outside the range.
        """
        return {}

    def emulated(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model that onnxruntime evaluates in place of `model`: the same values, in types that it supports."""
        return in_float32(folded(model))

    def network(self, make: Callable[[], onnx.ModelProto], threads: int) -> graph.Network:
        """A session for the model that `make` returns."""
        return graph.Network(lambda: self.emulated(make()), threads=threads, exact=True)

    def fit(self, evaluator: LayerEvaluator, progress: Callable[[str, int, int], None]) -> float:
        """Choose what depends on measured samples, if anything, and return the error with all layers in the format."""
        error = evaluator.sample_error(self.layers)
        progress("measure", 1, 1)
        return error

    def rank(self, evaluator: LayerEvaluator, everything: float, trials: int, progress: Progress) -> Ranking:
        """Rank the layers by the error of a few single evaluations, in at most `trials` measurements."""
        return rank_layers(self.layers, evaluator.output_error, everything, trials, progress)


class LayerEvaluator:
    """Measures the error of a recipe's network with any choice of layers in the format, and counts the measurements."""

    def __init__(self, recipe: ConversionRecipe, reference: HeldOutReference) -> None:
        self.recipe, self.reference, self.count = recipe, reference, 0

    def network(self, layers: Sequence[Layer]) -> graph.Network:
        """The network with `layers` in the format."""
        self.count += 1
        return self.recipe.network(lambda: self.recipe.build(layers), self.reference.threads)

    def sample_error(self, layers: Sequence[Layer]) -> float:
        """Mean squared error of the final samples."""
        return self.reference.sample_error(self.network(layers))

    def output_error(self, layers: Sequence[Layer]) -> float:
        """Relative squared error of the network's output in a few rows."""
        return self.reference.output_error(self.network(layers))
