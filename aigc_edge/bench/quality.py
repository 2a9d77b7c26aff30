"""What the images are worth, on the same row as the speed: scored by the bundle's judge, and compared from the same noise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.runner import Runner, Workload
from aigc_edge.metrics.judge import Judge
from aigc_edge.metrics.paired import compare

BATCH = 32


@contextlib.contextmanager
def judge_of(workload: Workload) -> Iterator[Judge | None]:
    """The judge in the bundle (a folder or a packed file); None when it has none."""
    judge = workload.manifest.judge
    if judge is None:
        yield None
        return
    below = Path(judge.classifier).parent
    with workload.opened.extract(workload.opened.below(str(below))) as folder:
        yield Judge.load(folder / below, threads=workload.threads)


def draw(runner: Runner, workload: Workload, n: int, progress: Callable[[int], None]) -> NDArray[np.uint8]:
    """`n` images, classes in turn, seeds 0 … n - 1."""
    labels, parts = workload.labels(n), []
    for first in range(0, n, BATCH):
        size = min(BATCH, n - first)
        parts.append(runner.generate(size, first, None if labels is None else labels[first : first + size]))
        progress(size)
    return np.concatenate(parts)


def score(
    native: Mapping[str, Runner], workload: Workload, n: int, progress: Callable[[int], None] = lambda size: None
) -> dict[str, dict[str, Any]]:
    """Format → quality of `n` native images of it; the reference of psnr and relative_l2 is fp32 with the same seeds."""
    images = {format: draw(runner, workload, n, progress) for format, runner in native.items()}
    reference, found = images.get("fp32"), {}
    with judge_of(workload) as judge:
        for format, drawn in images.items():
            against = None if format == "fp32" else reference
            figures: dict[str, Any] = {"n": n}
            if judge is not None:
                figures |= judge.score(drawn, workload.labels(n), against) | {"real_split": judge.card.get("real_split")}
            elif against is not None:
                figures |= paired(drawn, against)
            found[format] = figures
    return found


def paired(images: NDArray[np.uint8], reference: NDArray[np.uint8]) -> dict[str, float | None]:
    """`metrics.paired.compare` of uint8 images [N, H, W, C] with others of the same noise."""
    drawn, expected = (a.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1 for a in (images, reference))
    return compare(drawn, expected)


def agreement(runners: Mapping[str, Runner], workload: Workload, n: int, seed: int) -> dict[str, dict[str, Any]]:
    """How well each peer reproduces native of its format from the same latents; the network alone draws no images."""
    latents = np.random.default_rng(seed).standard_normal((n, *workload.shape), dtype=np.float32)
    drawn = {
        key: runner.generate(n, 0, workload.labels(n), latents) for key, runner in runners.items() if runner.name != "network"
    }
    compared: dict[str, dict[str, Any]] = {}
    for key, images in drawn.items():
        base = f"native-{key.partition('-')[2]}"
        if key != base and base in drawn:
            apart = int(np.abs(images.astype(np.int16) - drawn[base].astype(np.int16)).max())
            compared[key] = paired(images, drawn[base]) | {"against": base, "largest_difference": apart, "n": n}
    return compared
