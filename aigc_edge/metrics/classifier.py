"""Trains the judge: a small classifier on the same real images as the generator, exported so that scoring does not need torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from aigc_edge.errors import AigcEdgeError, DataError
from aigc_edge.files import atomic_dir, sha256_of, write_json
from aigc_edge.metrics.frechet import FeatureStatistics, frechet_distance
from aigc_edge.metrics.judge import BATCH, CARD, CLASSIFIER, FEATURES, VERSION, Judge, open_classifier, to_unit
from aigc_edge.metrics.paired import relative_l2

FEATURE_SIZE = 64
TRAIN_BATCH = 128
Progress = Callable[[str, int, int], None]


class JudgeNetwork(nn.Module):
    """Images [N, C, H, W] in [-1, 1] → logits [N, K] and features [N, 64] (the input of the last layer)."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 32
        while size > 24:  # large images: halve first, so that the rest always works on maps of about 16 x 16
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels, size = width, size // 2
        for out, pool in ((width, False), (2 * width, True), (2 * width, True), (2 * width, False)):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool and size >= 4 else []
            channels, size = out, size // 2 if pool and size >= 4 else size
        # A small grid of averages instead of global pooling: the positions of strokes matter.
        grid = 2 if size % 2 == 0 else 1
        self.body = nn.Sequential(*layers, nn.AvgPool2d(size // grid), nn.Flatten())
        self.squeeze = nn.Linear(channels * grid * grid, FEATURE_SIZE)
        self.head = nn.Linear(FEATURE_SIZE, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = functional.silu(self.squeeze(self.body(images)))
        return self.head(features), features


def _augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Label-preserving augmentation for digits and photos: small rotation, scale and shift, no mirroring."""
    n = len(images)

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return (2 * torch.rand(n, *shape, generator=generator) - 1) * bound

    angle, scale = uniform(0.2), 1 + uniform(0.12)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = scale * angle.cos()
    matrix[:, 1, 0] = scale * angle.sin()
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, :, 2] = uniform(0.12, 2)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _held_out(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """One fifth of every class, chosen by `seed`."""
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: max(1, len(members) // 5)]] = True
    return chosen


def _rotations(images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Every image in each quarter turn (half turn, when not square), the turn as its class (Gidaris et al., arXiv 1803.07728)."""
    turns = (0, 1, 2, 3) if images.shape[2] == images.shape[3] else (0, 2)
    turned = np.concatenate([np.rot90(images, turn, axes=(2, 3)) for turn in turns])
    return np.ascontiguousarray(turned), np.repeat(np.arange(len(turns)), len(images))


def _export(network: JudgeNetwork, shape: tuple[int, ...], path: Path) -> None:
    import onnx_ir
    from onnx_ir.passes import common

    from aigc_edge.export.onnx import quiet

    with quiet():
        program = torch.onnx.export(
            network,
            (torch.zeros(3, *shape),),
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    common.ClearMetadataAndDocStringPass()(program.model)  # it contains paths of this machine
    onnx_ir.save(program.model, path)


def _train(
    network: JudgeNetwork,
    images: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    generator: torch.Generator,
    progress: Progress | None,
) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    network.train()
    for step in range(steps):
        chosen = torch.randint(len(images), (min(TRAIN_BATCH, len(images)),), generator=generator)
        logits, _ = network(_augment(images[chosen], generator))
        loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress("judge", step + 1, steps)
    network.eval()


def train_judge(
    images: npt.NDArray[Any],
    labels: npt.NDArray[np.int64] | None,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    steps: int = 260,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the judge on real images (float32 [N, C, H, W] in [-1, 1] or uint8 [N, H, W, C]), write its folder, return its card.

    A fifth of every class is held out for the accuracy on the card. Without `labels` (int64 [N], at least two classes) the
    classes are the four rotations of the images, and the judge reports no class accuracy. Deterministic by `seed` on one
    machine and thread count. Raises DataError for fewer than 10 images.
    """
    real = to_unit(images)
    if len(real) < 10:
        raise DataError(f"{len(real)} images given: a judge needs at least 10 (and hundreds to judge well)")
    if labels is not None and len(labels) != len(real):
        raise DataError(f"{len(labels)} labels for {len(real)} images: give one label per image, or none")
    classes = 0 if labels is None else int(np.max(labels)) + 1
    supervised = labels is not None and len(np.unique(labels)) > 1
    if supervised:
        assert labels is not None
        seen, targets = real, np.asarray(labels, dtype=np.int64)
        held = _held_out(targets, seed)
    else:
        seen, targets = _rotations(real)
        classes = int(targets.max()) + 1
        held = np.tile(_held_out(np.zeros(len(real), np.int64), seed), classes)  # an image with all its rotations
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the initial weights come from the global generator
        network = JudgeNetwork(real.shape[1], min(real.shape[2:]), classes)
    x, y = torch.from_numpy(seen), torch.from_numpy(targets)
    _train(network, x[~held], y[~held], steps, torch.Generator().manual_seed(seed), progress)
    shape = list(real.shape[1:])
    with atomic_dir(out, overwrite=overwrite, durable=True) as part:
        _export(network, real.shape[1:], part / CLASSIFIER)
        # Evaluated with the exported file, so that real and generated images go through the same arithmetic.
        judge = Judge(open_classifier(part / CLASSIFIER), np.empty(0, np.float32), {"image_shape": shape})
        held_logits, features = judge.look(seen[held])[0], judge.look(real)[1]
        _check_export(network, seen[held][:BATCH], held_logits[:BATCH])
        card: dict[str, Any] = {
            "version": VERSION,
            "pretext": "class" if supervised else "rotation",
            "classes": classes,
            "image_shape": shape,
            "accuracy": float(np.mean(held_logits.argmax(1) == targets[held])),
            "held_out": int(held.sum()),
            "train": int((~held).sum()),
            "features": FEATURE_SIZE,
            "real_split": _real_split(features, seed),
            "seed": seed,
            "steps": steps,
        }
        # Half precision halves the file; its rounding error is far below the sampling noise.
        np.save(part / FEATURES, features.astype(np.float16), allow_pickle=False)
        card["sha256"] = {name: sha256_of(part / name) for name in (CLASSIFIER, FEATURES)}
        write_json(part / CARD, card)
    return card


def _check_export(network: JudgeNetwork, images: npt.NDArray[np.float32], exported: npt.NDArray[np.float32]) -> None:
    with torch.no_grad():
        error = relative_l2(exported, network(torch.from_numpy(images))[0].numpy())
    if error > 1e-4:  # rounding is 1e-6
        raise AigcEdgeError(f"the exported judge is off by {error:.2g} (relative L2 of its logits): try another version of torch")


def _real_split(features: npt.NDArray[np.float32], seed: int) -> dict[str, float]:
    """The distance between two halves of the real images, a lower bound for what a generator can reach."""
    order = np.random.default_rng(seed).permutation(len(features))
    half = len(features) // 2
    distance = frechet_distance(FeatureStatistics.of(features[order[:half]]), FeatureStatistics.of(features[order[half:]]))
    return {"frechet": distance, "n": half}
