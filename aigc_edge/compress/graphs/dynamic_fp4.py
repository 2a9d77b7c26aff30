"""Activations in 4-bit floats (E2M1) with block scales that are computed at run time, in standard Q/DQ nodes.

NVIDIA 2025, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149): 16 values along the inner axis share a scale in
E4M3, a sixth of the largest of them in units of one float32 scale per tensor. TensorRT multiplies in 4 bits where both factors of
a product come from such nodes; CPUs have no kernels for them, so for CPUs the two nodes with E2M1 are written as arithmetic.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from aigc_edge.compress.graphs.graph import attribute
from aigc_edge.compress.graphs.replacement import Replacement, replaced
from aigc_edge.compress.graphs.rewrite import Change
from aigc_edge.compress.rounding import E2M1_LARGEST, E4M3_LARGEST, E4M3_SMALLEST, SMALLEST_SCALE

BLOCK = 16


def tensor_scale(largest: float) -> np.float32:
    """The scale of a tensor with values up to `largest`, in whose units the scales of its blocks are stored.

    A sixth of a power of two: engines that divide by it, and those that multiply by the inverse of six times it, get the same.
    Values of up to twice the observed ones still fit.
    """
    least = max(largest / E4M3_LARGEST, E2M1_LARGEST * SMALLEST_SCALE)
    return np.float32(2.0 ** math.ceil(math.log2(least)) / E2M1_LARGEST)


def dynamic_input(tensor: str, scale: np.float32, rank: int, size: int) -> Change:
    """The change that makes a layer read `tensor` [..., size], of that rank, in 4 bits; 16 divides `size`.

    Nothing is divided by zero: a block whose scale rounds to zero becomes zero when it is multiplied by that scale.
    """
    part = Replacement(f"{tensor}_fp4")
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
    """`model` with float32 instead of E2M1 activations, with the same values, by operators that all engines have.

    E4M3 scales are rounded in the same manner: OpenVINO's own conversion rounds twice, to half precision first.
    """
    producers = {node.output[0]: node for node in model.graph.node}
    parts: dict[str, Replacement] = {}
    dropped: list[str] = []
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or attribute(source, "output_dtype", 0) != TensorProto.FLOAT4E2M1:
            continue
        tensor, divisors, scales = source.input[0], source.input[1], node.input[1]
        parts[node.output[0]] = _values(node.output[0], tensor, divisors, scales)
        rounded = producers[producers[scales].input[0]]
        parts[scales] = _scales(scales, rounded.input[0], rounded.input[1], producers[scales].input[1])
        dropped += [source.output[0], rounded.output[0]]
    return replaced(model, parts, dropped) if parts else model


def _values(name: str, tensor: str, divisors: str, scales: str) -> Replacement:
    """round(`tensor` / divisors) · scales, block by block."""
    part = Replacement(name)
    column = part.constant("column", [-1, 1], np.int64)
    blocks = part.add("Reshape", [tensor, part.constant("rows", [-1, BLOCK], np.int64)], "rowwise")
    ratios = part.add("Div", [blocks, part.add("Reshape", [divisors, column], "divisor_column")], "ratios")
    values = part.add("Mul", [_to_e2m1(part, ratios), part.add("Reshape", [scales, column], "scale_column")], "values")
    part.add("Reshape", [values, part.add("Shape", [tensor], "shape")], None)
    return part


def _to_e2m1(part: Replacement, value: str) -> str:
    """The nearest of 0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6: steps of 0.5 up to 2, of 1 up to 4, of 2 beyond; ties to even."""
    two, four = part.constant("two", 2), part.constant("four", 4)
    size = part.add("Abs", [value], "ratio_sizes")
    coarse = part.add("Where", [part.add("Less", [size, four], "below_four"), part.constant("unit", 1), two], "coarse_steps")
    step = part.add("Where", [part.add("Less", [size, two], "below_two"), part.constant("fine", 0.5), coarse], "steps")
    held = part.add("Clip", [value, part.constant("low", -E2M1_LARGEST), part.constant("high", E2M1_LARGEST)], "held")
    count = part.add("Round", [part.add("Div", [held, step], "counts")], "whole_counts")
    return part.add("Mul", [count, step], "rounded")


def _scales(name: str, largest: str, sixfold: str, whole: str) -> Replacement:
    """E4M3 of `largest` / sixfold, times whole: three mantissa bits, the lowest at least 2⁻⁹; at most 448.

    An inexact logarithm does no harm: next to a power of two either step rounds to that.
    """
    part = Replacement(name)
    ratio = part.add("Min", [part.add("Div", [largest, sixfold], "ratios"), part.constant("top", E4M3_LARGEST)], "held")
    logarithm = part.add("Mul", [part.add("Log", [ratio], "logarithms"), part.constant("per_binary", 1 / np.log(2))], "exponents")
    exponent = part.add("Max", [part.add("Floor", [logarithm], "floors"), part.constant("lowest", -6)], "whole_exponents")
    power = part.add("Pow", [part.constant("base", 2), exponent], "powers")
    step = part.add("Mul", [power, part.constant("eighth", 0.125)], "steps")
    count = part.add("Round", [part.add("Div", [ratio, step], "counts")], "whole_counts")
    part.add("Mul", [part.add("Mul", [count, step], "rounded"), whole], None)
    return part
