"""What a table is fitted to: a network, noise, and the many-step samples that come from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion.reference import NetworkFunction
from aigc_edge.errors import AigcEdgeError
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import Table

Images = NDArray[np.float32]
BATCH = 16  # samples of an evaluation; doubled by guidance: what a processor's cache holds


@dataclass(frozen=True)
class Task:
    """Noise `latents` [N, ...] and the samples `target` [N, ...] (float32) that a table is to reach from it.

    `network(sample, timestep, classes)` is what `reference.run` takes; with `guidance` other than 1 every evaluation is guided
    from `null_class` to `classes` [N]. Errors are taken between samples clamped to `limits`, as pictures are, where given.
    `spent(n)` is called after `n` evaluated samples.
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
    spent: Callable[[int], None] = lambda n: None

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, chosen: NDArray[np.int64] | slice) -> Task:
        """The same task for some of the samples."""
        classes = None if self.classes is None else self.classes[chosen]
        return dataclasses.replace(self, latents=self.latents[chosen], target=self.target[chosen], classes=classes)

    def parts(self) -> Iterator[Task]:
        """The task in batches that are evaluated at once."""
        for first in range(0, len(self), self.batch):
            yield self.take(slice(first, first + self.batch))

    def evaluate(self, sample: Images, log_noise: float) -> Images:
        """F [N, ...] of the network at `sample` [N, ...], guided where the task is; the task must be one batch."""
        count = len(sample)
        time = np.full(count, self.path.timestep(log_noise), np.float32)
        if self.guidance == 1.0:
            found = self.network(sample, time, self.classes)
        else:
            assert self.classes is not None
            assert self.null_class is not None
            both = np.concatenate([self.classes, np.full(count, self.null_class, np.int64)])
            pair = self.network(np.concatenate([sample, sample]), np.concatenate([time, time]), both)
            found = pair[count:] + np.float32(self.guidance) * (pair[:count] - pair[count:])
        self.spent(count)
        return np.asarray(found, np.float32)

    def run(self, table: Table, known: Images | None = None, first: int = 0) -> tuple[Images, Images]:
        """([latents, F_0 …] float32 [K + 1, N, ...], result [N, ...]) of one batch; evaluations before `first` are `known`."""
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
        """`images` as the error sees them."""
        return images if self.limits is None else np.clip(images, *self.limits)

    def residual(self, result: Images) -> Images:
        """Result minus target, both clamped."""
        return self.clamped(result) - self.clamped(self.target)

    def errors(self, table: Table) -> NDArray[np.float64]:
        """Mean squared error of each sample [N]; raises AigcEdgeError where it is not finite."""
        found = []
        for part in self.parts():
            off = part.residual(part.run(table)[1]).reshape(len(part), -1)
            found.append(np.square(off, dtype=np.float64).mean(axis=1))
        every = np.concatenate(found)
        if not np.isfinite(every).all():
            bad = int((~np.isfinite(every)).sum())
            raise AigcEdgeError(
                f"{bad} of {len(every)} samples are not finite: the network is broken, or the guidance too strong"
            )
        return every

    def error(self, table: Table) -> float:
        """Mean squared error over all samples; infinite where the table leaves the numbers."""
        try:
            with np.errstate(all="ignore"):
                return float(self.errors(table).mean())
        except AigcEdgeError:
            return float("inf")
