"""SVDQuant: the low-rank part of a weight is stored in 8 bits, as a branch beside the layer, and the residual in 4.

Li et al. 2024, "SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models" (arXiv 2411.05007): input
channels are scaled first, so that outliers of the activations move into the weights, where the largest singular values
absorb them. The paper computes with 4-bit activations in custom kernels; here the arithmetic is in float, in plain operators.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx
from onnx import helper

from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, channel_bytes
from aigc_edge.compress.formats.int4 import Int4, Int4Blocks
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.packing import int8_channels, per_channel
from aigc_edge.compress.graphs.qdq import quantise_weight
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.recipes.blockwise import BlockwiseRecipe
from aigc_edge.compress.recipes.recipe import ConversionRecipe
from aigc_edge.compress.recipes.weight_only import WeightOnly
from aigc_edge.compress.rounding import Floats
from aigc_edge.config import option

GAIN = 0.9  # of the squared error in 4 bits: a branch must reduce it below this share
WORTH = 3  # times the rank: the least number of inputs and of outputs for which a branch pays


@FORMATS.register("svdquant")
@dataclass(frozen=True)
class SvdQuant(WeightOnly):
    """int4 with a low-rank branch beside every layer that is large enough; see int4 for blocks and small layers."""

    name: ClassVar[str] = "svdquant"
    requires: ClassVar[tuple[str, ...]] = ("int4", "int8w")
    expected_psnr: ClassVar[float] = 25.0
    expected_size: ClassVar[float] = 0.24

    psnr: float = option(25.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    block: int = option(64, "inputs that share a scale", choices=(16, 32, 64, 128))
    low_rank: int = option(32, "singular vectors that the branch keeps", low=1)

    @property
    def calibrates(self) -> bool:
        return True

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        rest = Int4(block=self.block).weight_bytes(outputs, inputs, edge)
        if edge or min(outputs, inputs) < WORTH * self.low_rank:
            return rest
        return rest + channel_bytes(self.low_rank, inputs) + channel_bytes(outputs, self.low_rank)

    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        split = _Split(self, model)
        recipe = BlockwiseRecipe(
            self, model, reference, pack=split.pack, other=(int8_channels, "int8w"), rounded=split.rounded, opset=21
        )
        recipe.estimator = "awq, svd"
        return recipe


def largest_parts(rows: Floats, count: int) -> tuple[Floats, Floats]:
    """(left [outputs, count], right [count, inputs]) whose product is nearly the best approximation of `rows` of that rank.

    Halko, Martinsson and Tropp 2011 (randomised range finder with two power iterations); deterministic.
    """
    rng = np.random.default_rng(0)
    basis = rows @ rng.standard_normal((rows.shape[1], min(count + 16, min(rows.shape))), dtype=np.float32)
    for _ in range(2):
        basis = rows @ (rows.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    left, sizes, right = np.linalg.svd(basis.T @ rows, full_matrices=False)
    root = np.sqrt(sizes[:count])
    return (basis @ left[:, :count]) * root, root[:, None] * right[:count]


class _Split:
    """Packs rows as a low-rank branch in 8 bits and a residual in 4."""

    def __init__(self, format: SvdQuant, model: onnx.ModelProto) -> None:
        self.four, self.rank = Int4Blocks(format.block), format.low_rank
        self.nodes = {node.output[0]: node for node in model.graph.node if node.output}

    def parts(self, layer: Layer, rows: Floats) -> tuple[Floats, Floats, Floats, Floats] | None:
        """Codes and scales of the right and the left factor; None where a branch does not pay."""
        if layer.op == "ConvTranspose" or min(rows.shape) < WORTH * self.rank:
            return None
        left, right = largest_parts(rows, self.rank)
        codes, scales = quantise_weight(right, 0)
        rest, sizes = quantise_weight(left, 0)
        return codes.astype(np.float32), scales, rest.astype(np.float32), sizes

    def rounded(self, layer: Layer, rows: Floats, importance: Floats) -> Floats | None:
        """The rounded rows; see awq.RoundRows."""
        return self.four.rounded(layer, rows, importance)

    def pack(self, layer: Layer, rows: Floats, importance: Floats | None, shape: tuple[int, ...]) -> Change | None:
        """The packed layer; see blockwise.PackRows."""
        plain, parts = self.four.pack(layer, rows, importance, shape), self.parts(layer, rows)
        if plain is None or parts is None:
            return plain
        right, right_scale, left, left_scale = parts
        rest = rows - (left * left_scale[:, None]) @ (right * right_scale[:, None])
        if self._error(layer, rest, importance) > GAIN * self._error(layer, rows, importance):
            return plain
        change = self.four.pack(layer, rest, importance, shape)
        return None if change is None else self._branch(layer, change, parts, shape)

    def _error(self, layer: Layer, rows: Floats, importance: Floats | None) -> float:
        weights = np.ones(rows.shape[1], np.float32) if importance is None else importance
        dequantised = self.four.rounded(layer, rows, weights)
        return np.inf if dequantised is None else float((np.square(dequantised - rows) @ weights).sum(dtype=np.float64))

    def _branch(
        self, layer: Layer, change: Change, parts: tuple[Floats, Floats, Floats, Floats], shape: tuple[int, ...]
    ) -> Change:
        right, right_scale, left, left_scale = parts
        convolution = layer.op == "Conv"
        node = self.nodes[layer.node]
        first = replace(layer, weight=f"{layer.weight}_right", axis=0 if convolution else 1)
        second = replace(layer, weight=f"{layer.weight}_left", axis=0 if convolution else 1)
        if convolution:
            right, left = right.reshape(len(right), *shape[1:]), left.reshape(*left.shape, *[1] * (len(shape) - 2))
        else:
            right, left = right.T, left.T
        packed = per_channel(first, right, right_scale, "int8"), per_channel(second, left, left_scale, "int8")
        narrow, wide, rest = (f"{layer.node}_{part}" for part in ("narrow", "wide", "rest"))
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute} if convolution else {}
        op = "Conv" if convolution else "MatMul"
        branch = (
            helper.make_node(op, [layer.input, packed[0].inputs[1]], [narrow], name=narrow, **attributes),
            helper.make_node(op, [narrow, packed[1].inputs[1]], [wide], name=wide),
            helper.make_node("Add", [rest, wide], [layer.node], name=f"{layer.node}_joined"),
        )
        return Change(
            (*change.tensors, *packed[0].tensors, *packed[1].tensors),
            (*change.before, *packed[0].before, *packed[1].before),
            change.inputs,
            branch,
            rest,
        )
