"""Recipe of the 4-bit formats: weights in blocks, with activation-aware scaling of input channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.packing import master_weights
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.graphs.weights import first_and_last, from_rows, shared, to_rows, weights_of
from aigc_edge.compress.recipes.weight_only import WeightOnly, WeightOnlyRecipe
from aigc_edge.compress.rounding import Floats
from aigc_edge.compress.scaling.absorb import Absorber
from aigc_edge.compress.scaling.awq import RoundInputs, RoundRows, Scaling, find_scaling

PackRows = Callable[[Layer, Floats, Floats | None, tuple[int, ...]], Change | None]  # rows, importance of columns, shape
PackOther = Callable[[Layer, Any], Change]


class BlockwiseRecipe(WeightOnlyRecipe):
    """Weights stored by `pack`; embedding tables, the first and last layer and weights that no block divides by `other`.

    `other` comes with the name of its format. `rounded` gives the values that `pack` stores for rows, and `round_inputs` those
    that the format computes with for a layer's input (None: unchanged); the search of the scaling needs both.
    """

    def __init__(
        self,
        format: WeightOnly,
        model: onnx.ModelProto,
        reference: HeldOutReference | None,
        *,
        pack: PackRows,
        other: tuple[PackOther, str],
        rounded: RoundRows,
        opset: int,
        round_inputs: RoundInputs | None = None,
    ) -> None:
        scaled = reference is not None and bool(reference.calibration_records)
        super().__init__(format, model, opset=opset, estimator="awq" if scaled else "mse")
        self._other, self._other_name = other
        self._plain: set[str] = set()  # nodes stored by `other`
        self._kept: dict[str, set[str]] = {}  # node of a layer → outputs of nodes that have to stay in float32
        self._absorber = Absorber(self.model)
        self._scaling = Scaling()
        every = weights_of(model)
        outer = first_and_last(every)
        inner = [layer for layer in every if layer.op != "Gather" and layer.node not in outer]
        if reference is not None and scaled:
            self._scaling = find_scaling(
                self.model,
                inner,
                reference.calibration_records,
                rounded,
                self._absorber,
                reference.threads,
                reference.progress,
                round_inputs,
            )
        tied = shared(self.model)
        able = {layer.node for layer in inner if layer.weight not in tied}
        for layer in every:
            change = self._packed(layer, pack) if layer.node in able else None
            if change is None:
                change = self._in_front(layer, self._other(layer, self._scaled(layer)))
                self._plain.add(layer.node)
            self._add(layer, change)
        self.multiplications = len({layer.input for layer in self.layers if layer.node in self._scaling.multiplied})

    def _packed(self, layer: Layer, pack: PackRows) -> Change | None:
        weight = self._absorber.value(layer.weight)
        rows = to_rows(layer, weight)
        rows = rows * self._scaling.columns(layer, rows.shape[1])
        divided = layer.node in self._scaling.multiplied
        seen = replace(layer, input=f"{layer.input}_divided") if divided else layer  # a branch beside the layer reads it too
        change = pack(seen, rows, self._scaling.energy.get(layer.node), weight.shape)
        return None if change is None else self._in_front(layer, change)

    def _scaled(self, layer: Layer) -> Any:
        weight = self._absorber.value(layer.weight)
        if layer.node not in self._scaling.scales:
            return weight
        rows = to_rows(layer, weight)
        return from_rows(layer, rows * self._scaling.columns(layer, rows.shape[1]), weight.shape)

    def _in_front(self, layer: Layer, change: Change) -> Change:
        """`change` with the Mul that divides the layer's input, where no other node could absorb that."""
        if layer.node not in self._scaling.multiplied:
            return change
        factors = (1 / self._scaling.scales[layer.node]).astype(np.float32)
        name, result = f"{layer.input}_factors", f"{layer.input}_divided"
        places = len(self._absorber.value(layer.weight).shape) - 2 if layer.op in ("Conv", "ConvTranspose") else 0
        tensor = numpy_helper.from_array(factors.reshape(-1, *[1] * places), name)
        node = helper.make_node("Mul", [layer.input, name], [result], name=result)
        return replace(
            change, tensors=(*change.tensors, tensor), before=(*change.before, node), inputs={**change.inputs, 0: result}
        )

    def format_of(self, layer: Layer) -> str:
        return self._other_name if layer.node in self._plain else self.name

    def master_weights(self) -> dict[str, Floats]:
        return {
            name: values
            for layer in self.layers
            for name, values in master_weights(self._changes[layer.node], self._scaled(layer)).items()
        }

    def build(self, layers: Sequence[Layer], **options: Any) -> onnx.ModelProto:
        nodes = {layer.node for layer in layers}
        constants = dict(self._absorber.changed)
        for layer in [*self.layers, *self.float_layers]:  # a float layer behind an absorbed division needs scaled weights
            if layer.node not in nodes and layer.node in self._scaling.scales and layer.node not in self._scaling.multiplied:
                constants[layer.weight] = self._scaled(layer)
        keep = {name for node in nodes for name in self._kept.get(node, ())}
        return super().build(layers, constants=constants, keep=keep)
