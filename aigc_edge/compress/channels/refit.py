"""The energy of channels, and weights refitted for the loss of some: least squares on samples of the layers' inputs.

He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks" (arXiv 1707.06168).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.compress.calibration.layer_inputs import layer_inputs
from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.channels.tracing import ChannelTrace, kept
from aigc_edge.compress.channels.units import ChannelGroup, Costs, measured
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.weights import from_rows, to_rows
from aigc_edge.compress.rounding import Floats

ROWS = 2048  # calibration inputs a layer
EVALUATIONS = 64  # that they come from
LARGEST = 4608  # inputs of a layer that is refitted; wider ones keep their weights until fine-tuning
RIDGE = 1e-2  # of the mean diagonal: regularises towards the original weights


class InputMoments:
    """Means and second moments of the inputs of every layer whose inputs may be cut."""

    def __init__(self, state: ChannelTrace, records: Sequence[Record], threads: int) -> None:
        self.state = state
        self.layers = {layer.node: layer for layer in measured(state)}
        self.indices = {node.output[0]: index for index, node in enumerate(state.model.graph.node) if node.output}
        self.means: dict[str, Floats] = {}
        self.energies: dict[str, Floats] = {}
        self._moments: dict[str, Floats] = {}
        for group, rows in layer_inputs(state.model, list(self.layers.values()), records, ROWS, threads, EVALUATIONS):
            for layer in group:
                values = rows[layer.node]
                self.means[layer.node] = values.mean(0)
                self.energies[layer.node] = np.square(values).mean(0)
                if values.shape[1] <= LARGEST:
                    self._moments[layer.node] = values.T @ values / np.float32(len(values))

    def weigh(self, groups: Sequence[ChannelGroup], costs: Costs) -> None:
        """Set the energy of every unit: its share of its readers' inputs, by mean squared input times squared weight."""
        energy: dict[int, float] = {}
        for name, layer in self.layers.items():
            if name not in self.energies:
                continue
            weight = self.state.constants[layer.weight]
            roots = costs.read[self.indices[name]]
            parts = self.energies[name] * np.square(to_rows(layer, weight)).sum(0)
            channels = parts.reshape(len(roots), -1).sum(1)
            share = channels / max(float(channels.sum()), 1e-30)
            for root, value in zip(roots.tolist(), share.tolist(), strict=True):
                energy[root] = energy.get(root, 0.0) + value
        for group in groups:
            for unit in group.units:
                unit.energy = energy.get(unit.root, 0.0)

    def refitted(self, removed: Collection[int]) -> dict[tuple[int, int], npt.NDArray[Any]]:
        """Uncut weights (and biases), for `cut`, of the layers that lose inputs, such that their outputs change least."""
        weights: dict[tuple[int, int], npt.NDArray[Any]] = {}
        for name, layer in self.layers.items():
            index = self.indices[name]
            mask = kept(self.state.labels, self.state.labels.consumers[index], set(removed))
            if mask.all() or not mask.any() or name not in self._moments:
                continue
            weight = self.state.constants[layer.weight]
            columns = mask.repeat(self._moments[name].shape[0] // len(mask))
            bias = self.state.constants.get(layer.bias or "")
            fits = bias is not None and bias.size == weight.shape[layer.axis] and layer.op != "ConvTranspose"
            rows, shift = self._solve(layer, weight, columns, centred=fits)
            weights[index, 1] = from_rows(layer, rows, weight.shape)
            if fits and bias is not None:
                weights[index, 2] = (bias + shift.reshape(bias.shape)).astype(np.float32)
        return weights

    def _solve(self, layer: Layer, weight: Floats, columns: npt.NDArray[np.bool_], *, centred: bool) -> tuple[Floats, Floats]:
        rows = to_rows(layer, weight).astype(np.float64)
        moments, mean = self._moments[layer.node].astype(np.float64), self.means[layer.node].astype(np.float64)
        if centred:
            moments = moments - np.outer(mean, mean)
        inner = moments[np.ix_(columns, columns)]
        inner[np.diag_indices_from(inner)] += RIDGE * max(float(np.diagonal(inner).mean()), 1e-12)
        lost = rows[:, ~columns]
        change = np.linalg.solve(inner, moments[np.ix_(columns, ~columns)] @ lost.T).T
        updated = np.zeros_like(rows)
        updated[:, columns] = rows[:, columns] + change
        shift = lost @ mean[~columns] - change @ mean[columns]
        return updated.astype(np.float32), shift.astype(np.float32)
