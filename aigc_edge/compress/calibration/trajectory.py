"""Calibration along the denoising trajectory: the inputs that a network meets in use, and the final samples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.diffusion import Program, reference
from aigc_edge.errors import AigcEdgeError

Inputs = dict[str, npt.NDArray[Any]]
Evaluate = Callable[[Inputs], list[npt.NDArray[Any]]]
SMALLEST_PEAK = 1e-12  # samples that are all equal have no range
Constants = Callable[[float], Mapping[str, npt.NDArray[Any]]]  # timestep → schedule constants [1, ...] by name


@dataclass(frozen=True)
class Record:
    """The inputs of one network evaluation and its row of the program."""

    row: int
    inputs: Inputs


@dataclass(frozen=True)
class Calibration:
    """A sampling program with the noise to run it on: determines what a network is calibrated and evaluated with.

    `latents` [n, ...] float32 are unit normal; a program without rows calibrates a decoder, whose inputs are the latents
    themselves, of the distribution `inputs`. `classes` are [n] int64 or None, `null_class` the index for unconditional samples.
    Results are clamped to the range `limits` before they are compared, as images are; infinite limits are for latents.
    `constants` returns the values of inputs with the role constant. `conditions` and `negative`, float32 [n, ...] by input name,
    are the values of inputs with the role condition for guidance towards and away from; an input with the role guidance takes the
    row's guidance scale, and then no row is evaluated twice. Where `inputs` are arrays, `array_index` [n] is the one that each
    sample is made from. A text encoder is calibrated like a decoder: its `latents` are token ids [n, L]. Of several outputs,
    each weighted by its number in `output_weights`, the flat concatenation [n, M] is the result; without weights the first is.
    """

    spec: ComponentSpec
    program: Program
    latents: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64] | None = None
    null_class: int | None = None
    seeds: npt.NDArray[np.uint64] | None = None
    limits: tuple[float, float] = (-1.0, 1.0)
    constants: Constants | None = None
    conditions: Mapping[str, npt.NDArray[Any]] | None = None
    negative: Mapping[str, npt.NDArray[Any]] | None = None
    inputs: SampleInputs | None = None
    array_index: npt.NDArray[np.int64] | None = None
    output_weights: tuple[float, ...] = ()

    @staticmethod
    def draw(
        spec: ComponentSpec,
        program: Program,
        n: int,
        *,
        num_classes: int = 0,
        seed: int = 1 << 32,
        constants: Constants | None = None,
        conditions: Mapping[str, npt.NDArray[Any]] | None = None,
        negative: Mapping[str, npt.NDArray[Any]] | None = None,
        inputs: SampleInputs | None = None,
        limits: tuple[float, float] = (-1.0, 1.0),
    ) -> Calibration:
        """Draw `n` latents, with the classes 0, 1, … in turn; the default seed is outside the range that users sample with.

        Conditions [m, ...] are repeated in turn when m is not `n`. `inputs` are what a program without rows starts from (None:
        unit normal latents), with the classes where these are among its arrays.
        """
        if n < 1:
            raise AigcEdgeError(f"{n} calibration samples requested: give at least 1 (16 is usual)")
        sample = next((tensor for tensor in spec.inputs if tensor.role == "sample"), None)
        if sample is None:
            raise AigcEdgeError(f"component {spec.name!r} has no input of role sample: it cannot be calibrated")
        sizes = tuple(int(size) for size in sample.shape[1:])
        if inputs is None or inputs.kind == "normal" or program.rows:
            inputs, latents = None, np.random.default_rng(seed).standard_normal((n, *sizes), dtype=np.float32)
        else:
            latents = inputs.take(sample.name, sizes, np.arange(n), seed)
        classes = np.arange(n, dtype=np.int64) % num_classes if num_classes else None
        seeds = np.arange(n, dtype=np.uint64) + np.uint64(seed)
        own, other = (
            {k: _in_turn(k, v, n) for k, v in tensors.items()} if tensors else None for tensors in (conditions, negative)
        )
        null_class = num_classes or None
        origin = np.arange(n, dtype=np.int64) % inputs.count if inputs is not None and inputs.count else None
        drawn = Calibration(spec, program, latents, classes, null_class, seeds, limits, constants, own, other, inputs, origin)
        labels = drawn._labels(np.arange(n))
        return drawn if labels is None else replace(drawn, classes=labels)

    def split(self, n: int) -> tuple[Calibration, Calibration]:
        """The first `n` samples and the others."""
        return self._chosen(slice(None, n)), self._chosen(slice(n, None))

    def divide(self, first: int, second: int) -> tuple[Calibration, Calibration]:
        """At most `first` samples to calibrate on and at most `second` others to evaluate on.

        Arrays that the samples are made from are divided too, so that no sample of either part is made from one of the other.
        """
        arrays = None if self.array_index is None else np.unique(self.array_index % 2)
        if first == 0 or arrays is None or len(arrays) < 2:
            part, rest = self.split(first)
            return part, rest.split(second)[0]
        return self._of_arrays(0, first), self._of_arrays(1, second)

    def calibrating(self) -> Calibration:
        """All samples that `divide` may calibrate on; of other inputs than arrays all samples, as new noise is drawn for them."""
        return self if self.array_index is None else self.divide(len(self.latents), 1)[0]

    def _of_arrays(self, odd: int, most: int) -> Calibration:
        """At most `most` samples that are made from the even (`odd` 0) or odd (1) arrays, with these arrays alone as inputs."""
        assert self.array_index is not None
        assert self.inputs is not None
        part = self._chosen(np.flatnonzero(self.array_index % 2 == odd)[:most])
        assert part.array_index is not None
        return replace(
            part, inputs=self.inputs.chosen(np.arange(self.inputs.count) % 2 == odd), array_index=part.array_index // 2
        )

    def _chosen(self, chosen: Any) -> Calibration:
        classes, seeds, origin = (None if each is None else each[chosen] for each in (self.classes, self.seeds, self.array_index))
        changed: dict[str, Any] = {"latents": self.latents[chosen], "classes": classes, "seeds": seeds, "array_index": origin}
        return replace(self._with_conditions(chosen), **changed)

    def with_new_noise(self, n: int, seed: int) -> Calibration:
        """`n` samples of the same program from other noise; conditions are taken in turn from a random first one.

        Of arrays, samples are taken at random, each with its own label where there are labels.
        """
        rng = np.random.default_rng([seed, 0x7EAC4])
        count, shape = len(self.latents), self.latents.shape[1:]
        index: npt.NDArray[np.int64] | None = None
        labels = None
        if self.inputs is None:
            latents = rng.standard_normal((n, *shape), dtype=np.float32)
        else:
            sample = next(tensor.name for tensor in self.spec.inputs if tensor.role == "sample")
            index = rng.integers(0, 1 << 40, n)
            latents, labels = self.inputs.take(sample, shape, index, seed), self._labels(index)
        turn = (np.arange(n) + int(rng.integers(count))) % count
        classes = self.classes if labels is None else labels
        if classes is not None and labels is None:
            number = int(self.null_class or int(classes.max()) + 1)
            classes = rng.integers(0, number, n).astype(np.int64)
        seeds = rng.integers(1 << 33, 1 << 62, n).astype(np.uint64)
        origin = None if index is None or self.array_index is None or self.inputs is None else index % self.inputs.count
        changed: dict[str, Any] = {"latents": latents, "classes": classes, "seeds": seeds, "array_index": origin}
        return replace(self._with_conditions(turn), **changed)

    def _labels(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The labels of the samples `index` [n] of the arrays; None where these hold no labels."""
        name = next((tensor.name for tensor in self.spec.inputs if tensor.role == "class"), "")
        if self.inputs is None or name not in self.inputs.arrays:
            return None
        labels = np.asarray(self.inputs.arrays[name], np.int64)
        return labels[index % len(labels)]

    def _with_conditions(self, chosen: Any) -> Calibration:
        """The same calibration with the `chosen` samples of its conditions."""
        own, other = (
            {name: value[chosen] for name, value in tensors.items()} if tensors else None
            for tensors in (self.conditions, self.negative)
        )
        return replace(self, conditions=own, negative=other)

    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the network's inputs: equal calibrations have equal fingerprints."""
        arrays = {"latents": self.latents, "classes": self.classes, "seeds": self.seeds}
        arrays |= {
            f"{kind} {name}": array for kind in ("conditions", "negative") for name, array in (getattr(self, kind) or {}).items()
        }
        if self.inputs is not None:  # all of them: training and pruning draw further samples
            arrays |= {f"inputs {name}": np.asarray(array) for name, array in self.inputs.arrays.items()}
        if self.constants is not None:
            for row in self.program.rows:
                arrays |= {f"{row.timestep} {name}": array for name, array in self.constants(row.timestep).items()}
        shapes = {name: None if array is None else [str(array.dtype), array.shape] for name, array in arrays.items()}
        facts: list[Any] = [self.spec.to_json(), self.program.to_json(), self.null_class, self.limits, str(self.inputs), shapes]
        facts += [self.output_weights] if self.output_weights else []
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for array in arrays.values():
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def run(self, evaluate: Evaluate, records: list[Record] | None = None) -> npt.NDArray[np.float32]:
        """The final samples [n, C, H, W] of the network `evaluate`, clamped; the inputs of every evaluation go to `records`."""
        calls = 0

        def network(sample: Any, timestep: Any, classes: Any, **conditions: Any) -> npt.NDArray[Any]:
            nonlocal calls
            by_role = {"sample": (sample, np.float32), "timestep": (timestep, np.float32), "class": (classes, np.int64)}
            by_role["tokens"] = (sample, np.int64)
            inputs: Inputs = {}
            known = {} if self.constants is None or timestep is None else self.constants(float(timestep[0]))
            dtype: npt.DTypeLike
            for tensor in self.spec.inputs:
                if tensor.role == "constant":
                    row = known.get(tensor.name)
                    value, dtype = None if row is None else np.broadcast_to(row, (len(sample), *row.shape[1:])), np.float32
                elif tensor.role in ("condition", "guidance"):
                    value, dtype = conditions.get(tensor.name), np.float32
                else:
                    value, dtype = by_role[tensor.role]
                if value is None:
                    needed = {"constant": "schedule constants", "condition": "conditions of that name"}.get(
                        tensor.role, "classes"
                    )
                    raise AigcEdgeError(
                        f"input {tensor.name!r} of {self.spec.name!r} needs {needed}: give them to the calibration"
                    )
                inputs[tensor.name] = np.ascontiguousarray(value, dtype=dtype)
            if records is not None:
                records.append(Record(calls, inputs))
            calls += 1
            return self._combined(evaluate(inputs))

        result = reference.run(
            self.program,
            network if self.program.rows else None,
            self.latents,
            seeds=self.seeds,
            classes=self.classes,
            null_class=self.null_class,
            conditions=self.conditions,
            negative_conditions=self.negative,
            guidance_input=next((tensor.name for tensor in self.spec.inputs if tensor.role == "guidance"), None),
            decoder=None if self.program.rows else lambda z, classes: network(z, None, classes),
            dtype=np.float32,
        )
        return np.clip(result, *self.limits).astype(np.float32)

    def _combined(self, outputs: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """What is compared: the first output, or all of them by `output_weights`, flat."""
        if not self.output_weights:
            return outputs[0]
        own = zip(outputs, self.output_weights, strict=False)  # a network whose inner tensors are observed has more outputs
        parts = [array.reshape(len(array), -1) * weight for array, weight in own]
        return np.concatenate(parts, axis=1)


def _in_turn(name: str, values: npt.NDArray[Any], n: int) -> npt.NDArray[np.float32]:
    """`n` rows of `values` [m, ...], repeated in turn."""
    if np.ndim(values) < 1 or len(values) < 1:
        raise AigcEdgeError(
            f"the conditions {name!r} have the shape {list(np.shape(values))}: give [n, ...] with n of at least 1"
        )
    return np.asarray(values, np.float32)[np.arange(n) % len(values)]


def mean_square(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Mean squared difference, infinite when `a` is not finite: a broken network must lose every comparison."""
    error = float(np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
    return error if math.isfinite(error) else math.inf


def psnr(mean_squared: float, limits: tuple[float, float] = (-1.0, 1.0)) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error, infinite for 0; the peak is the width of `limits`."""
    if mean_squared == 0:
        return math.inf
    return 20 * math.log10(max(limits[1] - limits[0], SMALLEST_PEAK)) - 10 * math.log10(mean_squared)


def row_errors(candidate: Evaluate, original: Evaluate, records: list[Record], program: Program) -> list[dict[str, Any]]:
    """Relative L2 error of the network's output in every row of the program, both networks given the same input."""
    squares: dict[int, list[float]] = {}
    for record in records:
        expected = original(record.inputs)[0].astype(np.float64)
        result = candidate(record.inputs)[0].astype(np.float64)
        sums = squares.setdefault(record.row, [0.0, 0.0])
        sums[0] += float(np.square(result - expected).sum())
        sums[1] += float(np.square(expected).sum())
    sigmas = [row.sigma for row in program.rows] or [0.0]
    return [
        {"row": row, "sigma": sigmas[row], "relative_l2": math.sqrt(error / size) if size else float(error > 0)}
        for row, (error, size) in sorted(squares.items())
    ]
