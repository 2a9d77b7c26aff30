"""Activation-aware scaling: input channels with larger activations are scaled up, which reduces their rounding error.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (arXiv 2306.00978): the scales
are mean |x| to the power with the least error of layer outputs on calibration inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from aigc_edge.compress.calibration.layer_inputs import layer_inputs
from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.weights import shared, to_rows
from aigc_edge.compress.rounding import Floats
from aigc_edge.compress.scaling.absorb import Absorber

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROWS = 256  # calibration inputs a layer
GAIN = 0.9  # of the error: a scaling must reduce it below this share; smaller gains are chance
WORTH = 0.75  # and below this one if it needs an additional operator

# Rows as the format stores them, given the importance of their columns; None: it cannot hold the layer.
RoundRows = Callable[[Layer, Floats, Floats], Floats | None]
RoundInputs = Callable[[Layer, Floats], Floats]  # rows of a layer's input as the format computes with them


@dataclass
class Scaling:
    """Scales of the input channels of layers, which of them need a Mul, and the mean squares of the inputs."""

    scales: dict[str, Floats] = field(default_factory=dict)  # by node
    multiplied: set[str] = field(default_factory=set)  # nodes whose input is divided by an operator
    energy: dict[str, Floats] = field(default_factory=dict)  # mean square of each column of the layer's (scaled) input

    def columns(self, layer: Layer, inputs: int) -> Floats:
        """The scale of every column of the layer's matrix."""
        scales = self.scales.get(layer.node)
        return np.ones(inputs, np.float32) if scales is None else np.repeat(scales, inputs // len(scales))


def find_scaling(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    records: Sequence[Record],
    rounded: RoundRows,
    absorber: Absorber,
    threads: int,
    progress: Callable[[int, int], None],
    round_inputs: RoundInputs | None = None,
) -> Scaling:
    """Find the scaling of all `layers` that gain by it, absorbed by the nodes that compute their inputs where possible."""
    scaling = Scaling()
    several = shared(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done = 0
    for group, inputs in layer_inputs(model, layers, records, ROWS, threads):
        done += len(group)
        progress(done, len(layers))
        energy = {node: np.square(rows).mean(axis=0) for node, rows in inputs.items()}
        scaling.energy |= energy
        if any(layer.weight in several for layer in group):
            continue
        rows = {layer.node: to_rows(layer, onnx.numpy_helper.to_array(constants[layer.weight])) for layer in group}
        scales, share = _searched(group, inputs, rows, rounded, round_inputs, model)
        if share > GAIN:
            continue
        axis = 1 if group[0].op in ("Conv", "ConvTranspose") else -1
        absorbed = absorber.divide(group[0].input, {layer.node for layer in group}, scales, axis)
        if not absorbed and share > WORTH:
            continue
        for layer in group:
            scaling.scales[layer.node] = scales
            scaling.energy[layer.node] = energy[layer.node] / np.square(np.repeat(scales, len(energy[layer.node]) // len(scales)))
            if not absorbed:
                scaling.multiplied.add(layer.node)
    return scaling


def _searched(
    group: list[Layer],
    inputs: dict[str, Floats],
    rows: dict[str, Floats],
    rounded: RoundRows,
    round_inputs: RoundInputs | None,
    model: onnx.ModelProto,
) -> tuple[Floats, float]:
    """The best scales [channels] for layers that read the same tensor, and the error relative to that without scaling."""
    first = inputs[group[0].node]
    shape = next(list(tensor.dims) for tensor in model.graph.initializer if tensor.name == group[0].weight)
    channels = shape[1] if group[0].op == "Conv" else first.shape[1]
    size = np.abs(first).mean(axis=0).reshape(channels, -1).mean(axis=1)
    size = np.maximum(size, size.max() * np.float32(1e-4)) if size.max() > 0 else np.ones_like(size)
    best, plain, chosen = np.inf, np.inf, np.ones(channels, np.float32)
    energy = {node: np.square(activations).mean(axis=0) for node, activations in inputs.items()}
    for power in POWERS:
        scales = (size**power).astype(np.float32)
        scales /= np.sqrt(scales.max() * scales.min())
        error = 0.0
        for layer in group:
            weight, activations = rows[layer.node], inputs[layer.node]
            columns = np.repeat(scales, weight.shape[1] // channels)
            dequantised = rounded(layer, weight * columns, energy[layer.node] / np.square(columns))
            if dequantised is None:
                continue
            if round_inputs is None:
                wrong = activations @ (dequantised / columns - weight).T
            else:
                wrong = round_inputs(layer, activations / columns) @ dequantised.T - activations @ weight.T
            error += float(np.square(wrong).sum(dtype=np.float64))
        if power == 0:
            plain = error
        if error < best:
            best, chosen = error, scales
    return chosen, best / plain if plain > 0 else 1.0
