"""Proof that a format still generates what fp32 did: every format drawn from the same noise by the runtime itself, and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aigc_edge
from aigc_edge.errors import BudgetError
from aigc_edge.metrics.judge import Judge

BATCH = 16  # doubled by guidance: what a processor's cache holds; 100 at a time take 1.6 times as long an image
SINGLES = 2  # samples that are drawn again alone: their bits must be the same
Tell = Callable[[int, int], None]


def draw(
    bundle: Path,
    format: str,
    classes: NDArray[np.int64] | None,
    samples: int,
    *,
    seed: int,
    threads: int,
    tell: Tell = lambda done, total: None,
    batch: int = BATCH,
) -> NDArray[np.float32]:
    """Images float32 [samples, C, H, W], clamped to [-1, 1], by the default program; sample i has the seed `seed` + i."""
    parts = []
    with aigc_edge.open(bundle, format=format, threads=threads, verify="none") as pipeline:
        for first in range(0, samples, batch):
            size = min(batch, samples - first)
            some = None if classes is None else classes[first : first + size]
            parts.append(pipeline.sample(size, seed=seed + first, classes=some, output="float32"))
            tell(first + size, samples)
    return np.clip(np.concatenate(parts), -1, 1)


class Prover:
    """Scores one format after the other of one bundle; the first is the reference that the others are compared with."""

    def __init__(self, bundle: Path, judge: Path, *, num_classes: int, samples: int, seed: int, threads: int) -> None:
        self.bundle, self.samples, self.seed, self.threads = bundle, samples, seed, threads
        self.judge = Judge.load(judge, threads=threads)
        self.classes = np.arange(samples) % num_classes if num_classes else None
        self.reference: NDArray[np.float32] | None = None

    def score(self, format: str, tell: Tell) -> dict[str, Any]:
        """Figures of the judge and, but for the first format, psnr and relative_l2 against it; and whether the same samples drawn
        alone have the same bits."""
        seed, threads, few = self.seed, self.threads, min(SINGLES, self.samples)
        images = draw(self.bundle, format, self.classes, self.samples, seed=seed, threads=threads, tell=tell)
        figures = self.judge.score(images, self.classes, self.reference, seed=seed)
        alone = draw(self.bundle, format, self.classes, few, seed=seed, threads=threads, batch=1)
        if self.reference is None:
            self.reference = images
        return figures | {"seed": self.seed, "batch_invariant": bool(np.array_equal(alone, images[: len(alone)]))}


def hold_to_budget(
    quality: Mapping[str, Mapping[str, Any]], reports: Mapping[str, Mapping[str, Any]], budget: float, reference: str = "fp32"
) -> None:
    """Raise BudgetError, naming the layers to blame, when a format's Fréchet distance exceeds `budget` times the reference's."""
    exact = quality[reference]["frechet"]
    for name, figures in quality.items():
        if figures["frechet"] <= budget * exact:
            continue
        layers = {k: v["error"] for r in reports.get(name, {}).values() for k, v in r.get("nodes", {}).items() if v.get("error")}
        worst = ", ".join(sorted(layers, key=lambda layer: -layers[layer])[:3])
        blame = f" (the layers that err most: {worst})" if worst else ""
        raise BudgetError(
            f"{name} has a Fréchet distance of {figures['frechet']:.4g}; {budget:g} times the {exact:.4g} of {reference} are "
            f"allowed{blame}: allow more, or keep more layers in higher precision"
        )
