"""2:4 sparsity: of every four neighbouring input channels two weights are zero, which tensor cores from Ampere on skip.

Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378). Engines store zeros like other weights, so
the size of the file follows from the type of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from aigc_edge.compress.calibration.layer_inputs import layer_inputs
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.packing import halved, int8_channels
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.graphs.weights import first_and_last, from_rows, shared, to_rows, weight_input, weights_of
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.weight_only import WeightOnly, WeightOnlyRecipe
from aigc_edge.compress.rounding import Floats
from aigc_edge.compress.scaling.sparsity import inverse_root, mask_of, sparsegpt
from aigc_edge.config import option

ROWS = 1024  # calibration inputs per layer
LARGEST = 2304  # inputs of a Hessian; a wider convolution has one per kernel position
LEAST = 16  # input channels: narrower layers stay dense


@FORMATS.register("sparse24")
@dataclass(frozen=True)
class Sparse24(WeightOnly):
    """Convolutions and matrix products with two zeros in every four input channels; the first and last layer and embeddings stay
    dense; all are stored in the same type."""

    name: ClassVar[str] = "sparse24"
    requires: ClassVar[tuple[str, ...]] = ("fp16",)
    least_sm: ClassVar[int] = 80
    expected_psnr: ClassVar[float] = 12.0
    expected_size: ClassVar[float] = 0.51

    psnr: float = option(20.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    min_share: float = option(
        0.25, "least share of the weights in the format: below it the budget counts as missed", low=0, high=1
    )
    method: str = option("sparsegpt", "what chooses the zeros", choices=("magnitude", "sparsegpt"))
    weights: str = option("fp16", "what the weights are stored in", choices=("fp32", "fp16", "int8w"))

    @property
    def calibrates(self) -> bool:
        return self.method == "sparsegpt"

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        if self.weights == "int8w":
            return channel_bytes(outputs, inputs)
        return outputs * inputs * (2 if self.weights == "fp16" else 4)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        return _SparseRecipe(self, model, reference)


class _SparseRecipe(WeightOnlyRecipe):
    def __init__(self, format: Sparse24, model: onnx.ModelProto, reference: HeldOutReference | None) -> None:
        super().__init__(format, model, estimator=format.method)
        self.stored = format.weights
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        every = weights_of(model)
        groups = {node.output[0] for node in model.graph.node for item in node.attribute if item.name == "group" and item.i > 1}
        tied = shared(model)
        products = [layer for layer in every if layer.op in ("Conv", "Gemm", "MatMul")]
        outer = first_and_last(products)
        sparse = [
            layer
            for layer in products
            if layer.node not in outer | groups and layer.weight not in tied and self._shape(layer)[0] >= LEAST
        ]
        self._pruned: dict[str, Floats] = {}
        if reference is not None and reference.calibration_records:
            for group, inputs in layer_inputs(model, sparse, reference.calibration_records, ROWS, reference.threads):
                self._prune(group, inputs)
                reference.progress(len(self._pruned), len(sparse))
        for layer in sparse:
            if layer.node not in self._pruned:
                self._pruned[layer.node] = self._split(layer, lambda rows, _: rows * mask_of(rows), None)
        for layer in every:
            self._add(layer, self._stored(layer), always=layer.node in self._pruned)

    def _shape(self, layer: Layer) -> tuple[int, int]:
        """The numbers of input channels and of kernel positions."""
        dims = list(self.constants[layer.weight].dims)
        return (dims[1], int(np.prod(dims[2:]))) if layer.op == "Conv" else (dims[1 - layer.axis], 1)

    def _prune(self, group: list[Layer], inputs: dict[str, Floats]) -> None:
        roots: dict[tuple[int, ...], Floats] = {}  # shared by layers with the same input and kernel

        def prune(rows: Floats, seen: Floats) -> Floats:
            key = (*seen.shape, int(seen.__array_interface__["data"][0]))
            if key not in roots:
                roots.clear()
                roots[key] = inverse_root(seen)
            return sparsegpt(rows, roots[key])

        for layer in group:
            self._pruned[layer.node] = self._split(layer, prune, inputs[layer.node])

    def _split(self, layer: Layer, prune: Any, inputs: Floats | None) -> Floats:
        """Prune the weight with channels innermost: four neighbouring columns are then four channels of one kernel position."""
        weight = numpy_helper.to_array(self.constants[layer.weight])
        channels, places = self._shape(layer)

        def turned(values: Floats) -> Floats:
            return np.ascontiguousarray(values.reshape(len(values), channels, places).transpose(0, 2, 1))

        rows = turned(to_rows(layer, weight))
        seen = None if inputs is None else turned(inputs)
        if channels * places <= LARGEST and channels % 4 == 0:
            flat = rows.reshape(len(rows), -1)
            pruned = prune(flat, None if seen is None else seen.reshape(len(seen), -1)).reshape(rows.shape)
        else:
            parts = [(rows[:, place], None if seen is None else seen[:, place]) for place in range(places)]
            pruned = np.stack(
                [prune(np.ascontiguousarray(a), None if b is None else np.ascontiguousarray(b)) for a, b in parts], axis=1
            )
        back = np.ascontiguousarray(pruned.transpose(0, 2, 1)).reshape(len(rows), -1)
        return from_rows(layer, back, weight.shape)

    def _stored(self, layer: Layer) -> Change:
        """The weight, pruned or dense, in the type of the option `weights`."""
        dense = layer.node not in self._pruned
        weight = numpy_helper.to_array(self.constants[layer.weight]) if dense else self._pruned[layer.node]
        if self.stored == "int8w":
            return int8_channels(layer, weight)
        if self.stored == "fp16" and self.floats != "fp16":
            return halved(layer, weight)
        name = f"{layer.weight}_sparse"  # converted to half precision with the rest of the network
        return Change((numpy_helper.from_array(weight, name),), (), {weight_input(layer): name})

    def format_of(self, layer: Layer) -> str:
        return self.name if layer.node in self._pruned else self.stored

    def bytes_of(self, layer: Layer) -> int:
        change = self._changes[layer.node]
        return change.bytes if change.before else change.bytes // (2 if self.floats == "fp16" else 1)
