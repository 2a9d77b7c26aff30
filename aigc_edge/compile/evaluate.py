"""Proof that a format still generates what fp32 did: every format drawn from the same noise by the runtime itself, and scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aigc_edge
from aigc_edge.bundle.sizes import Size
from aigc_edge.metrics.judge import Judge, to_unit
from aigc_edge.metrics.paired import psnr, relative_l2
from aigc_edge.metrics.ssim import ssim

BATCH = 16  # doubled by guidance: what a processor's cache holds; 100 at a time take 1.6 times as long an image
ELEMENTS = BATCH * 3 * 64 * 64  # of the images of a batch: larger ones are drawn fewer at a time
SINGLES = 2  # samples that are drawn again alone: their bits must be the same
Tell = Callable[[int, int], None]
Given = Callable[[NDArray[np.int64]], dict[str, Any]]  # numbers of samples → what `Pipeline.sample` is given for them


def engine_of(format: str) -> str:
    """The engine that proves a format: onnxruntime, or the first that has kernels for it on a CPU."""
    from aigc_edge.compress.format import FORMATS

    engines: tuple[str, ...] = getattr(FORMATS[format], "engines", ("onnxruntime",)) if format in FORMATS else ("onnxruntime",)
    return "onnxruntime" if "onnxruntime" in engines else engines[0]


def draw(
    bundle: Path,
    format: str,
    given: Given,
    index: NDArray[np.int64],
    *,
    seed: int,
    threads: int,
    tell: Tell = lambda done, total: None,
    batch: int | None = None,
    size: Size | None = None,
) -> NDArray[np.float32]:
    """Images float32 [N, C, H, W], clamped to [-1, 1], by the default program, of what is `given` for each number of `index` [N].

    Image i has the seed `seed` + i. `size` is one of the bundle's (None: its default).
    """
    parts = []
    with aigc_edge.open(bundle, engine=engine_of(format), format=format, threads=threads, verify="none", size=size) as pipeline:
        each = batch or max(1, min(BATCH, ELEMENTS // math.prod(pipeline.manifest["output_shape"])))
        for first in range(0, len(index), each):
            some = index[first : first + each]
            parts.append(pipeline.sample(len(some), seed=seed + first, output="float32", **given(some)))
            tell(first + len(some), len(index))
    return np.clip(np.concatenate(parts), -1, 1)


class Prover:
    """Scores one format after the other; the first is the reference that the others are compared with.

    With a judge there are Fréchet distances to real images; without one, the errors against the reference alone.
    """

    def __init__(
        self,
        judge: Path | None,
        *,
        given: Given = lambda index: {},
        samples: int,
        seed: int,
        threads: int,
    ) -> None:
        self.seed, self.threads = seed, threads
        self.judge = None if judge is None else Judge.load(judge, threads=threads)
        self.given, self.index = given, np.arange(samples)
        self.reference: NDArray[np.float32] | None = None

    def score(self, bundle: Path, format: str, tell: Tell) -> dict[str, Any]:
        """Figures of the judge and, but for the first format, psnr, ssim and relative_l2 against it; and whether the same samples
        drawn alone have the same bits. Raises AigcEdgeError for images that are not finite."""
        seed, threads, index = self.seed, self.threads, self.index
        images = draw(bundle, format, self.given, index, seed=seed, threads=threads, tell=tell)
        if self.judge is not None:
            figures = self.judge.score(images, self.given(index).get("classes"), self.reference, seed=seed)
        else:
            to_unit(images)  # says what is wrong with images that are not finite
            figures = {"n": len(index)} | ({} if self.reference is None else paired(images, self.reference))
        if self.reference is not None:
            figures["ssim"] = ssim(images, self.reference)
        alone = draw(bundle, format, self.given, index[:SINGLES], seed=seed, threads=threads, batch=1)
        if self.reference is None:
            self.reference = images
        return figures | {"seed": self.seed, "batch_invariant": bool(np.array_equal(alone, images[: len(alone)]))}


def paired(images: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float | None]:
    """psnr in dB (None when equal) and relative L2 of images [N, C, H, W] against the reference's from the same noise."""
    ratio = psnr(images, reference)
    return {"psnr": ratio if math.isfinite(ratio) else None, "relative_l2": relative_l2(images, reference)}


def blame(reports: Mapping[str, Mapping[str, Any]], count: int = 3) -> str:
    """The layers that err most in the compression reports of a format, as part of a sentence; empty where none is known."""
    layers = {k: v["error"] for r in reports.values() for k, v in r.get("nodes", {}).items() if v.get("error")}
    worst = ", ".join(sorted(layers, key=lambda layer: -layers[layer])[:count])
    return f" (the layers that err most: {worst})" if worst else ""
