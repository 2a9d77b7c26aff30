"""Images in memory, with their classes and origin."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, C, H, W] with class indices int64 [N] (all 0 when there are no classes).

    `class_names` is empty for an unconditional set. `source` and `licence` are the origin and licence of the images;
    `skipped` counts unreadable files that were skipped on request. `groups` int64 [N], if given, assigns related images to
    groups that `split` keeps together.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str
    licence: str
    skipped: int = 0
    groups: npt.NDArray[np.int64] | None = None
    _fingerprint: str = field(default="", repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 means unconditional."""
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of shape, pixels, labels and class names: the same for the same data on every machine."""
        if not self._fingerprint:
            digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
            digest.update(np.ascontiguousarray(self.images).tobytes())
            digest.update(self.labels.astype("<i8").tobytes())
            object.__setattr__(self, "_fingerprint", digest.hexdigest())
        return self._fingerprint

    def scaled(self) -> npt.NDArray[np.float32]:
        """The images as float32 [N, C, H, W] in [-1, 1]."""
        return np.asarray(self.images, np.float32) / np.float32(127.5) - np.float32(1)

    def take(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """The images at `indices`, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return replace(self, images=self.images[indices], labels=self.labels[indices], groups=groups, _fingerprint="")

    def split(self, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Split into (training, held out): `fraction` of each class is held out, at least one image in all.

        Stratified: every class is shuffled by `seed` and cut on its own. A class keeps at least one image for training. With
        `groups`, groups are shuffled and split instead, regardless of class. Raises DataError when there are fewer than 2
        images (or groups).
        """
        if len(self) < 2:
            raise DataError(f"{self.source} has {len(self)} image: give at least 2, so that one can be held out for validation")
        rng = np.random.default_rng(seed)
        if self.groups is not None:
            return self._split_groups(self.groups, fraction, rng)
        held: list[npt.NDArray[np.int64]] = []
        for label in range(max(1, self.num_classes)):
            members = rng.permutation(np.flatnonzero(self.labels == label))
            held.append(members[: min(round(fraction * len(members)), max(0, len(members) - 1))])
        chosen = np.sort(np.concatenate(held))
        if not len(chosen):
            largest = np.bincount(self.labels).argmax()
            chosen = rng.permutation(np.flatnonzero(self.labels == largest))[:1]
        rest = np.setdiff1d(np.arange(len(self)), chosen)
        return self.take(rest), self.take(chosen)

    def _split_groups(
        self, groups: npt.NDArray[np.int64], fraction: float, rng: np.random.Generator
    ) -> tuple[ImageSet, ImageSet]:
        names = rng.permutation(np.unique(groups))
        if len(names) < 2:
            raise DataError(f"{self.source} has one group of images: give at least 2, so that one can be held out for validation")
        held = np.isin(groups, names[: min(max(1, round(fraction * len(names))), len(names) - 1)])
        return self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held))

    def describe(self) -> dict[str, Any]:
        """The "data" entry of a run's config.json."""
        skipped = {"skipped": self.skipped} if self.skipped else {}
        return skipped | {
            "source": self.source,
            "size": int(self.images.shape[2]),
            "channels": int(self.images.shape[1]),
            "class_names": list(self.class_names),
            "count": len(self),
            "licence": self.licence,
            "fingerprint": self.fingerprint,
        }
