"""Activations in 4-bit floats (E2M1) whose blocks find their scales while the network runs, in standard Q/DQ nodes.

NVIDIA 2025, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149): 16 values along the inner axis share a scale in
E4M3, a sixth of the largest of them in units of one float32 scale a tensor. TensorRT multiplies in 4 bits where both factors of a
product come from such nodes; CPUs have no kernels for them, so for those the two that touch E2M1 are written as arithmetic.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from aigc_edge.compress.graphs.edit import Part, replaced
from aigc_edge.compress.graphs.graph import attribute
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.scaling.rounding import E2M1_LARGEST, E4M3_LARGEST, E4M3_SMALLEST, SMALLEST_SCALE

BLOCK = 16


def tensor_scale(largest: float) -> np.float32:
    """The scale of a tensor with values up to `largest`: what the scales of its blocks are multiples of."""
    return np.float32(max(largest / (E2M1_LARGEST * E4M3_LARGEST), SMALLEST_SCALE))


def dynamic_input(tensor: str, scale: np.float32, rank: int, size: int) -> Change:
    """The change of a layer that reads `tensor` [..., size], of that rank, in 4 bits; 16 divides `size`.

    What quantises is never divided by zero: a block whose scale rounds to zero is zero because that scale multiplies it.
    """
    part = Part(f"{tensor}_fp4")
    whole, zero = part.constant("scale", scale), part.constant("zero", 0, ml_dtypes.float8_e4m3fn)
    blocks = part.add("Reshape", [tensor, part.constant("split", [0] * (rank - 1) + [size // BLOCK, BLOCK], np.int64)], "blocks")
    sizes = part.add("Abs", [blocks], "sizes")
    largest = part.add("ReduceMax", [sizes, part.constant("axis", [-1], np.int64)], "largest", keepdims=0)
    sixfold = part.constant("sixfold", scale * np.float32(E2M1_LARGEST))
    scales = part.add("DequantizeLinear", [part.add("QuantizeLinear", [largest, sixfold, zero], "e4m3"), whole, zero], "scales")
    divisors = part.add("Max", [scales, part.constant("least", scale * np.float32(E4M3_SMALLEST))], "divisors")
    along = {"axis": -1, "block_size": BLOCK}
    codes = part.add("QuantizeLinear", [tensor, divisors], "codes", output_dtype=TensorProto.FLOAT4E2M1, **along)
    result = part.add("DequantizeLinear", [codes, scales], "dq", **along)
    tensors = tuple(numpy_helper.from_array(value, name) for name, value in part.constants.items())
    return Change(tensors, tuple(part.nodes), {0: result})


def as_arithmetic(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without activations of type E2M1: float32 ones with the same values, by operators that all engines have."""
    quantisers = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and attribute(node, "output_dtype", 0) == TensorProto.FLOAT4E2M1
    }
    parts: dict[str, Part] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantisers:
            tensor, divisors = quantisers[node.input[0]].input[:2]
            parts[node.output[0]] = _part(node.output[0], tensor, divisors, node.input[1])
    return replaced(model, parts, tuple(quantisers)) if parts else model


def _part(name: str, tensor: str, divisors: str, scales: str) -> Part:
    """round(`tensor` / divisors) · scales, block by block."""
    part = Part(name)
    column = part.constant("column", [-1, 1], np.int64)
    blocks = part.add("Reshape", [tensor, part.constant("rows", [-1, BLOCK], np.int64)], "rowwise")
    ratios = part.add("Div", [blocks, part.add("Reshape", [divisors, column], "divisor_column")], "ratios")
    values = part.add("Mul", [_to_e2m1(part, ratios), part.add("Reshape", [scales, column], "scale_column")], "values")
    part.add("Reshape", [values, part.add("Shape", [tensor], "shape")], None)
    return part


def _to_e2m1(part: Part, value: str) -> str:
    """The nearest of 0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6: steps of 0.5 up to 2, of 1 up to 4, of 2 beyond; ties to even."""
    two, four = part.constant("two", 2), part.constant("four", 4)
    size = part.add("Abs", [value], "ratio_sizes")
    coarse = part.add("Where", [part.add("Less", [size, four], "below_four"), part.constant("unit", 1), two], "coarse_steps")
    step = part.add("Where", [part.add("Less", [size, two], "below_two"), part.constant("fine", 0.5), coarse], "steps")
    held = part.add("Clip", [value, part.constant("low", -E2M1_LARGEST), part.constant("high", E2M1_LARGEST)], "held")
    count = part.add("Round", [part.add("Div", [held, step], "counts")], "whole_counts")
    return part.add("Mul", [count, step], "rounded")
