"""Recipe of int8: activations and weights in 8 bits by Q/DQ nodes, with ranges from the trajectory, as an engine needs them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.compute_budget import ComputeBudget, evenly_spaced, output_gains
from aigc_edge.compress.calibration.observers import ESTIMATORS, Observer
from aigc_edge.compress.calibration.trajectory import Inputs, mean_square
from aigc_edge.compress.evaluation.fallback import Progress, Ranking, rank_layers
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.embedding_tables import with_int8_tables
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.half import to_half
from aigc_edge.compress.graphs.qdq import QdqWriter, factors, observed
from aigc_edge.compress.graphs.qdq_scheme import QdqScheme
from aigc_edge.compress.recipes.recipe import ConversionRecipe, LayerEvaluator
from aigc_edge.compress.report import CompressionReport
from aigc_edge.compress.rounding import scale_of
from aigc_edge.errors import BudgetError

OBSERVED = 1e9  # multiply-adds of evaluations whose inner tensors are observed at a time: they take memory


class Int8Recipe(ConversionRecipe):
    """Ranges come from the calibration samples of `reference`, errors from its held-out samples, both bounded by `compute`.

    `estimators` are tried in turn, and the one with the least error is used.
    """

    cost_name = "arithmetic"

    def __init__(
        self,
        scheme: QdqScheme,
        model: onnx.ModelProto,
        reference: HeldOutReference,
        compute: ComputeBudget,
        *,
        floats: str = "fp32",
        estimators: Sequence[str] = tuple(ESTIMATORS),
    ) -> None:
        self.name, self.floats = "int8", floats
        self.scheme, self.model, self.reference, self.compute = scheme, model, reference, compute
        self.layers, self.float_layers = scheme.layers(model), []
        if not self.layers:
            raise BudgetError(
                "the network has no convolution or matrix product with constant weights: there is nothing to quantise"
            )
        self.errors = dict.fromkeys(estimators, math.inf)  # mean squared error with all layers in int8
        self._single: list[tuple[float, Inputs, npt.NDArray[Any]]] = []
        self.observers = {name: Observer() for name in sorted(observed(model, self.layers, scheme.fused))}
        self._observe()
        reference.progress(1, 1)

    def _observe(self) -> None:
        """Collect the ranges of every tensor that may be quantised, along the trajectory of the calibration samples."""
        inputs = {value.name for value in self.model.graph.input}
        network = graph.Network(graph.with_outputs(self.model, self.observers.keys() - inputs), threads=self.reference.threads)
        most = max(1, int(OBSERVED * self.compute.evaluations / max(self.compute.macs, 1.0)))
        rows = itertools.count()

        def observe(inputs: Inputs) -> list[npt.NDArray[Any]]:
            row, outputs = next(rows), []
            for part in _chunks(inputs, most):
                values = dict(zip(network.outputs, network(part), strict=True)) | part
                for name, observer in self.observers.items():
                    observer.see(values[name], row)
                outputs.append(values[network.outputs[0]])
            return [np.concatenate(outputs)]

        self.reference.calibrating.run(observe)

    def calibrate(self, estimator: str) -> None:
        """Set the scales by one of the estimators."""
        self.estimator, symmetric = estimator, self.scheme.symmetric
        signed = {name for name in factors(self.model, self.layers) if self.observers[name].low < 0}
        scales = {}
        for name, observer in self.observers.items():
            centred = symmetric or name in signed
            scales[name] = scale_of(*ESTIMATORS[estimator](observer, centred), centred)
        self.writer = QdqWriter(self.model, scales, self.scheme, signed)

    def fit(self, evaluator: LayerEvaluator, progress: Callable[[str, int, int], None]) -> float:
        for index, name in enumerate(self.errors):
            self.calibrate(name)
            self.errors[name] = evaluator.sample_error(self.layers)
            progress("choose ranges", index + 1, len(self.errors))
        best = min(self.errors, key=lambda name: self.errors[name])
        self.calibrate(best)
        return self.errors[best]

    def rank(self, evaluator: LayerEvaluator, everything: float, trials: int, progress: Progress) -> Ranking:
        """Rank by the final error over whole trajectories, for large networks by single evaluations."""
        count = min(trials, len(self.layers))
        if self.compute.ranks_whole(count, self.reference.n):
            ranking = rank_layers(self.layers, evaluator.sample_error, everything, count, progress)
        else:
            count = self.compute.trials(count, self.compute.evaluations)
            ranking = rank_layers(
                self.layers, lambda layers: self.single_error(evaluator.network(layers)), everything, count, progress
            )
            total = sum(ranking.alone.values())
            if 0 < total < math.inf and math.isfinite(everything):  # shares of the final error
                ranking.alone = {name: error * everything / total for name, error in ranking.alone.items()}
        ranking.scale = mean_square(self.reference.samples, np.zeros(1)) or 1.0
        return ranking

    def single_error(self, network: graph.Network) -> float:
        """Mean squared error of single evaluations spread over the trajectory, weighted by their effect on the final sample.

        To rank layers of networks whose trajectories take too long; only ratios of it are meaningful.
        """
        if not self._single:
            reference = self.reference
            chosen = evenly_spaced(len(reference.records))
            weights = output_gains(reference.held_out, chosen)
            if not any(weights):
                weights = [1.0] * len(chosen)
            for call, weight in zip(chosen, weights, strict=True):
                inputs = {name: value[:1] for name, value in reference.records[call].inputs.items()}
                self._single.append((weight, inputs, reference.outputs[call][:1]))
        return sum(weight * mean_square(network(inputs)[0], output) for weight, inputs, output in self._single)

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        model = self.writer.write(layers)
        if self.floats == "fp16":
            return to_half(model)
        return model if self.scheme.symmetric else with_int8_tables(model)  # TensorRT's int8 is that of Q/DQ nodes only

    def network(self, make: Callable[[], onnx.ModelProto], threads: int) -> graph.Network:
        return graph.Network(make, threads=threads, exact=self.scheme.exact)

    def bytes_of(self, layer: Layer) -> int:
        return layer.bytes // 4

    def cost(self, layer: Layer) -> int:
        return layer.macs

    def master_weights(self) -> dict[str, npt.NDArray[np.float32]]:
        return self.writer.master_weights()

    def complete(self, report: CompressionReport) -> None:
        report.estimators = {name: self.reference.psnr(error) for name, error in self.errors.items()}
        report.ranges = {name: observer.to_json() for name, observer in self.observers.items()}


def _chunks(inputs: Inputs, most: int) -> list[Inputs]:
    size = len(next(iter(inputs.values())))
    return [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, size, most)]
