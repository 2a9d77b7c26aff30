"""Weights in 4 bits under two levels of scales, which expand exactly to int8 weights with one scale per channel.

QServe (Lin et al. 2024, arXiv 2405.04532): int8 = 4-bit code · block scale + block offset, all of them integers; the float32
scale of the channel applies to the int8 value. The offset is any int8 integer, not a multiple of the block scale: that costs half
a byte more a block, and normally distributed weights are rounded with 0.8 dB less noise. In the file, operators of standard ONNX
compute the int8 value from constants, so engines that fold constants see an int8 network; `expanded` does that without floats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graphs.graph import attribute
from aigc_edge.compress.graphs.rewrite import assembled
from aigc_edge.compress.rounding import Floats, block_of

LEAST_BLOCK = 16  # below it scales and offsets take as much as the codes save
LOWEST, HIGHEST, LARGEST = -8, 7, 127  # codes, and the largest magnitude of int8 values
MOST = 17  # the largest block scale: 15 steps of it span −127 … 127
_PART = 1 << 20  # elements per step of the search

Int8 = npt.NDArray[np.int8]


class TwoLevel(NamedTuple):
    """Codes −8 … 7 [outputs, blocks, block], block scales 1 … 17 and offsets [outputs, blocks], all int8."""

    codes: Int8
    scales: Int8
    offsets: Int8

    @property
    def integers(self) -> Int8:
        """The int8 weight [outputs, inputs]."""
        wide = self.codes.astype(np.int16) * self.scales[:, :, None] + self.offsets[:, :, None]
        return wide.reshape(len(self.codes), -1).astype(np.int8)


def fitted(blocks: Floats, importance: Floats | None = None) -> tuple[Floats, Floats]:
    """Scales and offsets [rows, blocks], as float32, with the least squared error of `blocks` [rows, blocks, block].

    The blocks are in units of the channel's scale, −127 … 127. `importance` [blocks, block] weights the errors.
    """
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    ideal = np.ceil((high - low) / np.float32(HIGHEST - LOWEST))
    best = np.full(low.shape, np.inf, np.float32)
    scales, offsets = np.ones_like(low), np.zeros_like(low)
    for fewer in range(4):  # clamped ends can be worth finer steps
        scale = np.clip(ideal - np.float32(fewer), 1, MOST).astype(np.float32)
        offset = _bounded((low + high) / 2 + scale / 2)
        for again in (True, False):
            residual = blocks - _values(blocks, scale, offset)
            squares = np.square(residual) if importance is None else np.square(residual) * importance
            error = squares.sum(axis=2)
            better = error < best
            best, scales, offsets = (
                np.where(better, error, best),
                np.where(better, scale, scales),
                np.where(better, offset, offsets),
            )
            if again:  # the mean error of the block moves into its offset
                mean = residual.mean(axis=2) if importance is None else _mean(residual, importance)
                offset = _bounded(offset + mean)
    return scales.astype(np.float32), offsets.astype(np.float32)


def codes_of(blocks: Floats, scales: Floats, offsets: Floats) -> Floats:
    """The codes, as float32, nearest to `blocks` [..., block]: those whose int8 value does not leave −127 … 127."""
    scale, offset = scales[..., None], offsets[..., None]
    low = np.maximum(np.float32(LOWEST), np.ceil((-LARGEST - offset) / scale))
    high = np.minimum(np.float32(HIGHEST), np.floor((LARGEST - offset) / scale))
    codes: Floats = np.clip(np.rint((blocks - offset) / scale), low, high)
    return codes


def two_level(units: Floats, block: int, importance: Floats | None = None) -> TwoLevel:
    """`units` [outputs, inputs], weights in units of their channel's scale, by nearest codes; `importance` [inputs]."""
    outputs, inputs = units.shape
    count = inputs // block
    weights = None if importance is None else importance.reshape(count, block)
    result = TwoLevel(*_room(outputs, inputs, block))
    step = max(1, _PART // inputs)
    for first in range(0, outputs, step):
        part = units[first : first + step].reshape(-1, count, block)
        scales, offsets = fitted(part, weights)
        for stored, values in zip(result, (codes_of(part, scales, offsets), scales, offsets), strict=True):
            stored[first : first + step] = values
    return result


def compensated(units: Floats, block: int, root: Floats) -> TwoLevel:
    """As `two_level`, but the error of each column is compensated by the columns right of it (Frantar et al. 2022, GPTQ).

    `root` [inputs, inputs] is the factor of the inverse Hessian (`scaling.sparsity.inverse_root`), along which errors are passed
    on (arXiv 2210.17323). A block's scales are fitted to what it has become when its turn comes.
    """
    outputs, inputs = units.shape
    rest, result = units.copy(), TwoLevel(*_room(outputs, inputs, block))
    for index, first in enumerate(range(0, inputs, block)):
        part, local = rest[:, first : first + block], root[first : first + block, first : first + block]
        gains = 1 / np.diagonal(local)
        scales, offsets = fitted(part[:, None, :], np.square(gains)[None, :])
        errors = np.empty_like(part)
        for column in range(block):
            codes = codes_of(part[:, column, None], scales[:, 0], offsets[:, 0])
            value = codes[:, 0] * scales[:, 0] + offsets[:, 0]
            errors[:, column] = (part[:, column] - value) * gains[column]
            part[:, column + 1 :] -= np.outer(errors[:, column], local[column, column + 1 :])
            result.codes[:, index, column] = codes[:, 0]
        result.scales[:, index], result.offsets[:, index] = scales[:, 0], offsets[:, 0]
        rest[:, first + block :] -= errors @ root[first : first + block, first + block :]
    return result


def block_for(inputs: int, wanted: int) -> int:
    """The size of the blocks of a row of `inputs`; 0 when no block that saves space divides it."""
    return block_of(inputs, wanted, LEAST_BLOCK)


def written(
    weight: TwoLevel, name: str, result: str, shape: tuple[int, ...], upright: bool
) -> tuple[dict[str, npt.NDArray[Any]], list[onnx.NodeProto]]:
    """Constants by name, and nodes, that compute the int8 tensor `result` of `shape`; their names begin with `name`.

    Blocks of an `upright` weight lie along the rows of its first axis; of another [inputs, outputs], along the first axis.
    """
    codes, scales, offsets = weight.codes, weight.scales[:, :, None], weight.offsets[:, :, None]
    if not upright:
        codes, scales, offsets = (np.moveaxis(part, 0, 2) for part in (codes, scales, offsets))
    parts = {"int4": codes.astype(ml_dtypes.int4), "block_scale": scales, "block_offset": offsets}
    constants = {f"{name}_{key}": np.ascontiguousarray(part) for key, part in parts.items()}
    constants[f"{name}_shape"] = np.array(shape, np.int64)
    nodes = [_node("Cast", [f"{name}_{key}"], f"{name}_{key}_float", to=TensorProto.FLOAT) for key in parts]
    nodes.append(_node("Mul", [f"{name}_int4_float", f"{name}_block_scale_float"], f"{name}_scaled"))
    nodes.append(_node("Add", [f"{name}_scaled", f"{name}_block_offset_float"], f"{name}_moved"))
    nodes.append(_node("Cast", [f"{name}_moved"], f"{name}_blocks", to=TensorProto.INT8))
    nodes.append(_node("Reshape", [f"{name}_blocks", f"{name}_shape"], result))
    return constants, nodes


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with int8 constants instead of the nodes that `written` makes; `model` itself when it has none."""
    constants = {
        tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type in (TensorProto.INT4, TensorProto.INT8)
    }
    by_output = {node.output[0]: node for node in model.graph.node if node.output}
    integers = []
    for node in model.graph.node:
        found = _parts(node, by_output, constants)
        if found is not None:
            codes, scales, offsets = (numpy_helper.to_array(tensor).astype(np.int16) for tensor in found)
            shape = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == node.input[1])
            integers.append(numpy_helper.from_array((codes * scales + offsets).astype(np.int8).reshape(shape), node.output[0]))
    if not integers:
        return model
    computed = {tensor.name for tensor in integers}
    return assembled(model, [node for node in model.graph.node if not computed & {*node.output}], integers)


def _parts(
    node: onnx.NodeProto, by_output: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> list[onnx.TensorProto] | None:
    """The codes, scales and offsets that `node`, the last of `written`'s, computes its result from; None for another node."""

    def source(node: onnx.NodeProto | None, place: int, op: str) -> onnx.NodeProto | None:
        before = None if node is None or len(node.input) <= place else by_output.get(node.input[place])
        return before if before is not None and before.op_type == op else None

    cast = source(node, 0, "Cast") if node.op_type == "Reshape" else None
    if cast is None or attribute(cast, "to", 0) != TensorProto.INT8:
        return None
    moved = source(cast, 0, "Add")
    scaled = source(moved, 0, "Mul")
    casts = [source(scaled, 0, "Cast"), source(scaled, 1, "Cast"), source(moved, 1, "Cast")]
    found = [None if each is None else constants.get(each.input[0]) for each in casts]
    kinds = [None if tensor is None else tensor.data_type for tensor in found]
    return found if kinds == [TensorProto.INT4, TensorProto.INT8, TensorProto.INT8] else None  # type: ignore[return-value]


def _room(outputs: int, inputs: int, block: int) -> list[Int8]:
    count = inputs // block
    return [np.empty(shape, np.int8) for shape in ((outputs, count, block), (outputs, count), (outputs, count))]


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def _values(blocks: Floats, scales: Floats, offsets: Floats) -> Floats:
    return codes_of(blocks, scales, offsets) * scales[..., None] + offsets[..., None]


def _mean(values: Floats, importance: Floats) -> Floats:
    mean: Floats = (values * importance).sum(axis=2) / np.maximum(importance.sum(axis=1), np.float32(1e-30))
    return mean


def _bounded(offsets: Floats) -> Floats:
    return np.clip(np.rint(offsets), -LARGEST, LARGEST).astype(np.float32)
