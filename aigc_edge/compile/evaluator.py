"""Evaluate formats against fp32 by comparing samples that the runtime generates from the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aigc_edge
from aigc_edge.bundle.sizes import Size
from aigc_edge.compress.evaluation.search import most_sensitive_layers
from aigc_edge.engines.base import ENGINES, EXACT
from aigc_edge.engines.formats import least_capability
from aigc_edge.errors import AigcEdgeError
from aigc_edge.metrics.judge import Judge, to_unit
from aigc_edge.metrics.paired import compare
from aigc_edge.metrics.ssim import ssim

BATCH = 16  # doubled by guidance; fits the CPU cache: at 100 an image takes 1.6 times as long
ELEMENTS = BATCH * 3 * 64 * 64  # of a batch: larger images use smaller batches
SMALLEST_IMAGE = 4  # pixels: what is narrower, or has other than 1 or 3 channels, is no image for SSIM
SINGLES = 2  # samples generated again at batch 1, to check for the same bits
Progress = Callable[[int, int], None]
ConditionsOf = Callable[[NDArray[np.int64]], dict[str, Any]]  # sample indices → keyword arguments of `Pipeline.sample`


def engine_of(format: str) -> str:
    """The engine that a format is evaluated with: onnxruntime, or the first that runs it on a CPU."""
    from aigc_edge.compress.format import FORMATS

    for name in chain(["onnxruntime"], ENGINES):
        if "cpu" in ENGINES[name].devices and least_capability(FORMATS[format], ENGINES[name]) == 0:
            return name
    raise AigcEdgeError(f"no engine runs the format {format} on a CPU, where formats are evaluated: install one that does")


def draw(
    bundle: Path,
    format: str,
    conditions_of: ConditionsOf,
    index: NDArray[np.int64],
    *,
    seed: int,
    threads: int,
    progress: Progress = lambda done, total: None,
    batch: int | None = None,
    size: Size | None = None,
    seconds: dict[str, list[float]] | None = None,
    engine: str = "",
    precision: str = EXACT,
) -> NDArray[np.float32]:
    """Generate images float32 [N, C, H, W] by the default program, with the conditions of each sample in `index` [N].

    They are scaled from the bundle's output range to [-1, 1] and clamped. Image i has the seed `seed` + i. `size` is one of the
    bundle's (None: its default). `engine` is by default `engine_of` the format. The seconds of an image inside each component
    are appended to `seconds`, for every batch.
    """
    parts = []
    options: dict[str, Any] = {"engine": engine or engine_of(format), "precision": precision, "verify": "none"}
    with aigc_edge.open(bundle, format=format, threads=threads, size=size, **options) as pipeline:
        each = batch or max(1, min(BATCH, ELEMENTS // math.prod([int(side) for side in pipeline.manifest.output_shape])))
        for first in range(0, len(index), each):
            chunk = index[first : first + each]
            parts.append(pipeline.sample(len(chunk), seed=seed + first, output="float32", **conditions_of(chunk)))
            if seconds is not None:
                for name, spent in pipeline.component_seconds.items():
                    seconds.setdefault(name, []).append(spent / len(chunk))
            progress(first + len(chunk), len(index))
        low, high = map(float, pipeline.manifest.output_range)
    images = np.concatenate(parts)
    if (low, high) != (-1, 1):
        images = (images - np.float32(low)) * np.float32(2 / (high - low)) - 1
    return np.clip(images, -1, 1)


class Evaluator:
    """Scores formats one at a time; the first is the reference for the others.

    With a judge the scores include Fréchet distances to real images; without one, only errors relative to the reference.
    """

    def __init__(
        self,
        judge: Path | None,
        *,
        conditions_of: ConditionsOf = lambda index: {},
        samples: int,
        seed: int,
        threads: int,
    ) -> None:
        self.seed, self.threads = seed, threads
        self.judge = None if judge is None else Judge.load(judge, threads=threads)
        self.conditions_of, self.index = conditions_of, np.arange(samples)
        self.reference: NDArray[np.float32] | None = None

    def score(self, bundle: Path, format: str, progress: Progress) -> dict[str, Any]:
        """The judge's scores and, for all but the first format, the figures of `metrics.paired.compare` and, of images, ssim.

        `batch_invariant` is whether samples generated at batch 1 have the same bits; `seconds` are those of one image at batch 1
        by component, of a text encoder those of its new prompts. Raises AigcEdgeError for non-finite images.
        """
        seed, threads, index = self.seed, self.threads, self.index
        images = draw(bundle, format, self.conditions_of, index, seed=seed, threads=threads, progress=progress)
        if self.judge is not None:
            figures = self.judge.score(images, self.conditions_of(index).get("classes"), self.reference, seed=seed)
        else:
            to_unit(images)  # raises for non-finite images
            figures = {"n": len(index)} | ({} if self.reference is None else compare(images, self.reference))
        if self.reference is not None and images.shape[1] in (1, 3) and min(images.shape[2:]) >= SMALLEST_IMAGE:
            figures["ssim"] = ssim(images, self.reference)
        seconds: dict[str, list[float]] = {}
        alone = draw(bundle, format, self.conditions_of, index[:SINGLES], seed=seed, threads=threads, batch=1, seconds=seconds)
        if self.reference is None:
            self.reference = images
        least = {name: min(spent) for name, spent in seconds.items()}  # the first image includes what is done once
        return figures | {
            "seed": self.seed,
            "batch_invariant": bool(np.array_equal(alone, images[: len(alone)])),
            "seconds": least,
        }

    def compare(self, bundle: Path, format: str, count: int | None = None, **options: str) -> dict[str, Any]:
        """The figures of `metrics.paired.compare` and, of images, ssim, of the first `count` images of the format (None: all).

        `options` are the engine and the precision (see `draw`).
        """
        assert self.reference is not None
        index = self.index[:count]
        images = draw(bundle, format, self.conditions_of, index, seed=self.seed, threads=self.threads, **options)  # type: ignore[arg-type]
        return self._compared(images, self.reference[: len(index)])

    def _compared(self, images: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, Any]:
        figures: dict[str, Any] = compare(images, reference)
        if images.shape[1] in (1, 3) and min(images.shape[2:]) >= SMALLEST_IMAGE:
            figures["ssim"] = ssim(images, reference)
        return figures


def most_sensitive(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The most sensitive layers in a format's compression reports, as part of a sentence; "" if none are known."""
    errors = {k: v["error"] ** 2 for r in reports.values() for k, v in r.get("nodes", {}).items() if v.get("error")}
    return f" (the most sensitive layers are {most_sensitive_layers(errors)})" if errors else ""
