"""Recipe of W4A8: the int8 network with weights stored in 4 bits; sensitive layers keep int8 weights, and some stay in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from aigc_edge.compress.calibration.layer_inputs import layer_inputs
from aigc_edge.compress.evaluation.fallback import FallbackBudget, choose_layers
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.qdq import QdqWriter, along_axis, quantise_weight
from aigc_edge.compress.graphs.two_level import TwoLevel, block_for, compensated, expanded, two_level
from aigc_edge.compress.graphs.weights import to_rows
from aigc_edge.compress.recipes.int8 import Int8Recipe
from aigc_edge.compress.recipes.recipe import ConversionRecipe, LayerEvaluator
from aigc_edge.compress.rounding import Floats, Scale
from aigc_edge.compress.scaling.sparsity import inverse_root
from aigc_edge.errors import BudgetError

LEAST_SAVED = 1024  # bytes: about what the nodes and names of a weight in 4 bits take beyond those of one in int8
ROWS = 2048  # inputs of a layer that its Hessian is from
LARGEST = 6144  # inputs of a row whose errors are compensated: the time goes with the third power
FLOAT_SHARE = 0.5  # of the multiply-adds, at most, in float


class W4A8Recipe(Int8Recipe):
    """`layers` are those whose weights can be in 4 bits; the other layers of int8 are int8, unless the budget needs floats.

    Fallback has two stages. Where not even int8 weights hold the least error that is allowed, the most sensitive layers stay in
    float, as in int8. Then, of the others, the weights that cost most per byte fall back from 4 to 8 bits.
    """

    cost_name = "weights"

    def __init__(self, *args: Any, block: int, allowed: float, requested: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.name, self.block, self._allowed, self._requested = "w4a8", block, allowed, requested
        shapes = {tensor.name: tuple(tensor.dims) for tensor in self.model.graph.initializer}
        self.eights = self.layers  # of int8
        self._inputs = {
            layer.node: int(np.prod(shapes[layer.weight]) // shapes[layer.weight][layer.axis])
            for layer in self.eights
            if layer.weight in shapes
        }
        self.layers = [layer for layer in self.eights if self._saves(layer)]
        self.float_layers = [layer for layer in self.eights if layer not in self.layers]
        if not self.layers:
            raise BudgetError("the network has no weight that is smaller in 4 bits than in int8: use int8")
        self._in_float: set[str] = set()  # nodes of `eights` that stay in float
        self._packed: dict[str, tuple[Floats, TwoLevel]] = {}  # node → scales of the channels, codes under them
        self._compensate()

    def _saves(self, layer: Layer) -> bool:
        block = block_for(self._inputs.get(layer.node, 1), self.block)
        return block > 0 and layer.bytes // 4 - self._bytes(layer, block) >= LEAST_SAVED

    @staticmethod
    def _bytes(layer: Layer, block: int) -> int:
        return layer.bytes // 8 + layer.bytes // 2 // block

    def bytes_of(self, layer: Layer) -> int:
        return self._bytes(layer, block_for(self._inputs[layer.node], self.block))

    def fallback_of(self, layer: Layer) -> tuple[str, int]:
        return super().fallback_of(layer) if layer.node in self._in_float else ("int8", layer.bytes // 4)

    def cost(self, layer: Layer) -> int:
        return layer.bytes

    def _compensate(self) -> None:
        """Choose the codes of all weights whose inputs are known, with the errors compensated."""
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        fitting = [layer for layer in self.layers if self._inputs[layer.node] <= LARGEST]
        for group, seen in layer_inputs(self.model, fitting, self.records, ROWS, self.reference.threads):
            roots: dict[tuple[bool, int], Floats] = {}  # products that read the same tensor share one
            for layer in group:
                weight = numpy_helper.to_array(constants[layer.weight])
                scale = quantise_weight(weight, layer.axis)[1]
                units, inputs = _units(layer, weight, scale), seen.pop(layer.node)
                key = layer.op == "Conv", hash(layer.node) if layer.op == "Conv" else units.shape[1]
                if key not in roots:
                    roots[key] = inverse_root(inputs)
                self._packed[layer.node] = scale, compensated(units, block_for(units.shape[1], self.block), roots[key])
                self.reference.progress(len(self._packed), len(fitting))

    def pack(self, layer: Layer, weight: Floats, scale: Floats) -> TwoLevel:
        """The weight's codes under these scales of its channels."""
        stored = self._packed.get(layer.node)
        if stored is None or not np.array_equal(stored[0], scale):
            units = _units(layer, weight, scale)
            nearest = two_level(units, block_for(units.shape[1], self.block))
            if stored is not None:  # few channels have another scale: where a bias needs a larger one
                same = np.equal(stored[0], scale)
                for part, kept in zip(nearest, stored[1], strict=True):
                    part[same] = kept[same]
            stored = self._packed[layer.node] = scale, nearest
        return stored[1]

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        """The model with exactly these `layers` in 4 bits."""
        return self.built([layer for layer in self.eights if layer.node not in self._in_float], layers)

    def built(self, eights: Sequence[Layer], fours: Sequence[Layer] = ()) -> onnx.ModelProto:
        """The model with exactly `eights` in int8, of them the weights of `fours` in 4 bits."""
        return self.finished(self.writer.write(eights, {layer.node for layer in fours}))

    def write_with(self, scales: Mapping[str, Scale], signed: Collection[str]) -> QdqWriter:
        return QdqWriter(self.model, scales, self.scheme, signed, self.pack)

    def network(self, make: Callable[[], onnx.ModelProto], threads: int) -> graph.Network:
        return super().network(lambda: expanded(make()), threads)

    def fit(self, evaluator: LayerEvaluator, progress: Callable[[str, int, int], None]) -> float:
        everything = super().fit(evaluator, progress)
        if everything <= self._allowed:
            return everything
        eight = evaluator.sample_error([])
        if eight > self._allowed:
            self._keep_floats(evaluator, eight, progress)
            everything = evaluator.sample_error(self.layers)
        return everything

    def _keep_floats(self, evaluator: LayerEvaluator, everything: float, progress: Callable[[str, int, int], None]) -> None:
        """Choose the layers that stay in float, all weights being int8."""
        of_eight = LayerEvaluator(_Int8Weights(self), self.reference)
        trials = min(64, len(self.eights))
        ranking = self.rank(of_eight, everything, trials, lambda done, total: progress("rank layers", done, total))
        budget = FallbackBudget(
            target=self._allowed,
            min_share=1 - FLOAT_SHARE,
            describe=self.reference.describe,
            requested=self._requested,
            name="int8",
            cost=lambda layer: layer.macs,
            cost_name="arithmetic",
            alternative="fp16",
        )
        kept, _ = choose_layers(self.eights, ranking, of_eight.sample_error, budget)
        evaluator.count += of_eight.count
        names = {layer.node for layer in kept}
        self._in_float = {layer.node for layer in self.eights} - names
        self.layers = [layer for layer in self.layers if layer.node in names]
        self.float_layers = [layer for layer in self.eights if layer not in self.layers]


def _units(layer: Layer, weight: Floats, scale: Floats) -> Floats:
    """The rows of the weight in units of their scales."""
    return to_rows(layer, weight / along_axis(scale, layer.axis, weight.ndim))


class _Int8Weights(ConversionRecipe):
    """The recipe's network with int8 weights, whose layers fall back to float."""

    def __init__(self, recipe: W4A8Recipe) -> None:
        self.name, self._recipe = "int8", recipe
        self.layers, self.float_layers = recipe.eights, []

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        return self._recipe.built(layers)

    def network(self, make: Callable[[], onnx.ModelProto], threads: int) -> graph.Network:
        return self._recipe.network(make, threads)

    def bytes_of(self, layer: Layer) -> int:
        return layer.bytes // 4
