"""SmoothQuant: outlier channels of activations are scaled down and their weights up, which leaves the product unchanged.

Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (arXiv 2211.10438).
The factors are a multiplication in front of the products, which engines fuse with the operator before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.rewrite import Change, rewritten
from aigc_edge.compress.graphs.weights import shared

SAMPLES = 2  # whose trajectories the largest magnitudes come from
LEAST = 1e-3  # of the largest factor of a tensor: inactive channels are not amplified


def largest_inputs(
    model: onnx.ModelProto, layers: Sequence[Layer], calibration: Calibration, threads: int
) -> dict[str, npt.NDArray[np.float32]]:
    """The largest magnitude of each channel (the last axis) of the inputs of the matrix products among `layers`."""
    names = sorted({layer.input for layer in layers if _takes(layer)})
    network = graph.Network(graph.with_outputs(model, names), threads=threads)
    records: list[Record] = []
    few, _ = calibration.calibrating().split(SAMPLES)
    largest: dict[str, npt.NDArray[np.float32]] = {}

    def watch(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        result = network(inputs)
        values = dict(zip(network.outputs, result, strict=True)) | inputs
        for name in names:
            seen = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(0)
            largest[name] = np.maximum(largest.get(name, seen), seen)
        return result

    few.run(watch, records)
    return largest


def smoothed(
    model: onnx.ModelProto, layers: Sequence[Layer], sizes: Mapping[str, npt.NDArray[np.float32]], strength: float
) -> onnx.ModelProto:
    """A copy of `model` whose matrix products' input channels are divided by max|x|^s / max|w|^(1 − s), s the strength."""
    constants, tied = graph.initialisers(model), shared(model)
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        if _takes(layer) and layer.weight not in tied and layer.input in sizes:
            groups.setdefault(layer.input, []).append(layer)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    changes: dict[str, Change] = {}
    for name, group in groups.items():
        largest = np.max([np.abs(constants[layer.weight]).max(layer.axis) for layer in group], axis=0)
        factor = np.power(sizes[name], strength) / np.power(np.maximum(largest, 1e-12), 1 - strength)
        factor = np.where(sizes[name] > 0, factor, 0)
        factor = np.maximum(factor, LEAST * factor.max() or 1.0).astype(np.float32)
        factor /= np.float32(np.exp(np.log(factor).mean()))
        smoothing, result = f"{name}_smoothing", f"{name}_smooth"
        tensor = numpy_helper.from_array((1 / factor).astype(np.float32), smoothing)
        node = helper.make_node("Mul", [name, smoothing], [result], name=result)
        for layer in group:
            changes[layer.node] = Change((tensor,), (node,), {0: result})
            weights[layer.weight] = constants[layer.weight] * (factor if layer.axis == 0 else factor[:, None])
    return rewritten(model, changes, weights)


def _takes(layer: Layer) -> bool:
    return layer.op in ("MatMul", "Gemm")
