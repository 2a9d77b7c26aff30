"""What a table is fitted to: a network, latents, and the many-step samples from these latents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion.reference import NetworkFunction
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import CoefficientTable

Images = NDArray[np.float32]
BATCH = 16  # samples per evaluation, doubled by guidance: as many as fit a processor's cache


@dataclass(frozen=True)
class Task:
    """Unit normal `latents` [N, ...] and the samples `target` [N, ...] (float32) that a table is to reach from them.

    `network(sample, timestep, classes)` is that of `reference.run`; with a `guidance` scale other than 1 every evaluation is
    guided from `null_class` to `classes` [N]. Errors are between samples clamped to `limits`, if given, as images are.
    `on_evaluated(n)` is called after the evaluation of `n` samples.
    """

    network: NetworkFunction
    path: NoisePath
    latents: Images
    target: Images
    classes: NDArray[np.int64] | None = None
    null_class: int | None = None
    guidance: float = 1.0
    limits: tuple[float, float] | None = None
    batch: int = BATCH
    on_evaluated: Callable[[int], None] = lambda n: None

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, indices: NDArray[np.int64] | slice) -> Task:
        """The task of some of the samples."""
        classes = None if self.classes is None else self.classes[indices]
        return dataclasses.replace(self, latents=self.latents[indices], target=self.target[indices], classes=classes)

    def batches(self) -> Iterator[Task]:
        """The task in batches of at most `batch` samples."""
        for first in range(0, len(self), self.batch):
            yield self.take(slice(first, first + self.batch))

    def evaluate(self, sample: Images, log_noise: float) -> Images:
        """The (guided) network output F [N, ...] for the input `sample` [N, ...]; the task must be one batch."""
        count = len(sample)
        time = np.full(count, self.path.timestep(log_noise), np.float32)
        if self.guidance == 1.0:
            output = self.network(sample, time, self.classes)
        else:
            assert self.classes is not None
            assert self.null_class is not None
            both = np.concatenate([self.classes, np.full(count, self.null_class, np.int64)])
            pair = self.network(np.concatenate([sample, sample]), np.concatenate([time, time]), both)
            output = pair[count:] + np.float32(self.guidance) * (pair[:count] - pair[count:])
        self.on_evaluated(count)
        return np.asarray(output, np.float32)

    def run(self, table: CoefficientTable, known: Images | None = None, first: int = 0) -> tuple[Images, Images]:
        """([latents, F_0 …] float32 [K + 1, N, ...], result [N, ...]) of one batch; outputs before `first` are `known`."""
        count = table.nfe
        weights = table.weights.astype(np.float32)
        if known is None:
            known = np.zeros((count + 1, *self.latents.shape), np.float32)
            known[0] = self.latents
        for index in range(first, count):
            sample = np.tensordot(weights[index, : index + 1], known[: index + 1], 1)
            known[index + 1] = self.evaluate(sample, float(table.levels[index]))
        return known, np.tensordot(weights[count], known, 1)

    def clamped(self, images: Images) -> Images:
        """`images` clamped to the limits."""
        return images if self.limits is None else np.clip(images, *self.limits)

    def residual(self, result: Images) -> Images:
        """Result minus target, both clamped."""
        return self.clamped(result) - self.clamped(self.target)

    def error(self, table: CoefficientTable) -> float:
        """Mean squared error over all samples; infinite where a sample is not finite."""
        errors = []
        with np.errstate(all="ignore"):
            for batch in self.batches():
                residual = batch.residual(batch.run(table)[1]).reshape(len(batch), -1)
                errors.append(np.square(residual, dtype=np.float64).mean(axis=1))
            error = float(np.concatenate(errors).mean())
        return error if math.isfinite(error) else math.inf
