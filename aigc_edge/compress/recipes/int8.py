"""One network's quantised versions, built from ranges along its trajectory and measured on held-out noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.compute_budget import ComputeBudget, dry_run, gains, spots
from aigc_edge.compress.calibration.observers import ESTIMATORS, Observer, Scale, scale_of
from aigc_edge.compress.calibration.trajectory import Calibration, Record, mean_square, row_errors
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.embedding_tables import with_int8_tables
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.graphs.half import to_half
from aigc_edge.compress.graphs.qdq import QdqWriter, factors, observed
from aigc_edge.compress.graphs.qdq_scheme import QdqScheme
from aigc_edge.errors import AigcEdgeError

WATCHED = 1e9  # multiply-adds of one evaluation whose inner tensors are all watched, at least one sample: they take memory


class Trials:
    """Ranges come from the first part of the calibration's samples, errors from the others; of both as many as can be afforded.

    `half` has what is not int8 in float16.
    """

    def __init__(
        self,
        form: QdqScheme,
        original: onnx.ModelProto,
        calibration: Calibration,
        threads: int,
        *,
        half: bool = False,
        effort: float = 1.0,
    ) -> None:
        self.form = form
        self.half = half
        self.original = original
        self.threads = threads
        self.layers = form.layers(original)
        count = len(calibration.latents)
        if count < 2:
            raise AigcEdgeError(
                f"{count} calibration samples given: int8 needs at least 2, one part to calibrate and one to measure on"
            )
        dry = dry_run(calibration)
        self.evaluations = sum(len(next(iter(record.inputs.values()))) for record in dry)  # that one sample takes
        self.calls = len(dry)
        self.effort = ComputeBudget(float(sum(layer.macs for layer in self.layers)) * self.evaluations, effort)
        seen, held = calibration.split(count // 2)
        self.seen, _ = seen.split(self.effort.seen(len(seen.latents)))
        self.held, _ = held.split(self.effort.held(len(held.latents)))
        self.records: list[Record] = []
        self.teacher_outputs: list[npt.NDArray[Any]] = []  # of the float32 network, which is not kept: it takes twice its weights
        reference = graph.Network(original, threads=threads)

        def watched(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            result = reference(inputs)
            self.teacher_outputs.append(result[0])
            return result

        self.wanted = self.held.run(watched, self.records)
        self.observers: dict[str, Observer] = {}
        self.scales: dict[str, Scale] = {}
        self.measured = 0
        self._spots: list[tuple[float, dict[str, npt.NDArray[Any]], npt.NDArray[Any]]] = []

    def observe(self) -> None:
        """Collect the ranges of every tensor that may be quantised, along the trajectory of the calibration samples."""
        tensors = observed(self.original, self.layers, self.form.fused)
        self.observers = {name: Observer() for name in sorted(tensors)}
        watched = onnx.ModelProto()
        watched.CopyFrom(self.original)
        inputs = {value.name for value in watched.graph.input}
        present = {value.name for value in watched.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(tensors - inputs - present))
        network = graph.Network(watched, threads=self.threads)
        del watched
        most = max(1, int(WATCHED * self.evaluations / max(self.effort.macs, 1.0)))
        rows = itertools.count()

        def watch(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            row, made = next(rows), []
            for part in _chunks(inputs, most):
                values = dict(zip(network.outputs, network(part), strict=True)) | part
                for name, observer in self.observers.items():
                    observer.see(values[name], row)
                made.append(values[network.outputs[0]])
            return [np.concatenate(made)]

        self.seen.run(watch)

    def calibrate(self, estimator: str) -> None:
        """Set the scales by one of the estimators."""
        symmetric = self.form.symmetric
        signed = {name for name in factors(self.original, self.layers) if self.observers[name].low < 0}
        ranges = {
            name: (*ESTIMATORS[estimator](observer, symmetric or name in signed), symmetric or name in signed)
            for name, observer in self.observers.items()
        }
        self.scales = {name: scale_of(low, high, centred) for name, (low, high, centred) in ranges.items()}
        self.writer = QdqWriter(
            self.original,
            self.scales,
            symmetric=symmetric,
            fused=self.form.fused,
            signed=signed,
            early=self.form.early,
            vectors=self.form.vectors,
        )

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        """The model with `layers` in int8."""
        model = self.writer.write(layers)
        if self.half:
            return to_half(model)
        return model if self.form.symmetric else with_int8_tables(model)  # TensorRT's int8 is that of Q/DQ nodes only

    def network(self, model: onnx.ModelProto) -> graph.Network:
        return graph.Network(model, threads=self.threads, exact=self.form.exact)

    def measure(self, layers: Sequence[Layer]) -> float:
        """Mean squared error of the final samples with `layers` in int8."""
        self.measured += 1
        return mean_square(self.held.run(self.network(self.build(layers))), self.wanted)

    def rows(self, model: onnx.ModelProto) -> list[dict[str, Any]]:
        """Relative L2 error of the output of `model` in every row, both networks given the same input."""
        known = iter(self.teacher_outputs)
        return row_errors(self.network(model), lambda inputs: [next(known)], self.records, self.held.program)

    def measure_once(self, layers: Sequence[Layer]) -> float:
        """Mean squared error of single evaluations spread over the trajectory, weighted by what each does to the final sample.

        For ranking layers of networks whose trajectories take too long; only ratios of it mean something.
        """
        self.measured += 1
        if not self._spots:
            chosen = spots(self.calls)
            weights = gains(self.held, chosen)
            if not any(weights):
                weights = [1.0] * len(chosen)
            for call, weight in zip(chosen, weights, strict=True):
                inputs = {name: value[:1] for name, value in self.records[call].inputs.items()}
                self._spots.append((weight, inputs, self.teacher_outputs[call][:1]))
        network = self.network(self.build(layers))
        return sum(weight * mean_square(network(inputs)[0], wanted) for weight, inputs, wanted in self._spots)


def _chunks(inputs: dict[str, npt.NDArray[Any]], most: int) -> list[dict[str, npt.NDArray[Any]]]:
    size = len(next(iter(inputs.values())))
    return [{name: value[at : at + most] for name, value in inputs.items()} for at in range(0, size, most)]
