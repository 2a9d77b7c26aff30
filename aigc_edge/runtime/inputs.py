"""What a caller gives to `Pipeline.sample`, checked and brought into the form that the runtime takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.diffusion import Program, noise
from aigc_edge.errors import AigcEdgeError
from aigc_edge.images import to_float
from aigc_edge.ops import randn
from aigc_edge.ops._philox import philox

LONGEST = 1 << 16  # side of an image
CLASS_DRAW = 0xFFFFFFFF  # the draw of a seed that no row reaches


def integer(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within low … high."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise AigcEdgeError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return int(value)


def integers(name: str, values: Any, n: int, low: int, high: int) -> NDArray[np.object_]:
    """One whole number within low … high for each of `n` samples."""
    array = np.asarray(values, dtype=object).reshape(-1)
    if array.size != n:
        raise AigcEdgeError(f"{name} holds {array.size} values: it must hold one for each of the {n} samples")
    for value in array:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise AigcEdgeError(f"{name} holds {value!r}: each must be a whole number from {low} to {high}")
    return array


def image_size(value: Any) -> tuple[int, int]:
    """Height and width of an image."""
    try:
        height, width = value
    except (TypeError, ValueError):
        raise AigcEdgeError(f"size is {value!r}: give the height and the width of the images, such as (512, 768)") from None
    return integer("the height", height, 1, LONGEST), integer("the width", width, 1, LONGEST)


def drawn_classes(seeds: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """The classes [N] that the runtime draws from the seeds [N] where none are given (csrc/runtime/sampler.cpp: drawn_class)."""
    low, high = seeds & np.uint64(0xFFFFFFFF), seeds >> np.uint64(32)
    first = philox((0, CLASS_DRAW, 0, 0), (low, high))[0].astype(np.uint64)
    return ((first * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


class Start:
    """What `n` samples of a program start from: the noise of their seeds, and an image that is known."""

    def __init__(self, manifest: Manifest, program: Program, n: int, seeds: NDArray[np.uint64] | None, seed: int) -> None:
        self._program, self._n, self._given, self._first = program, n, seeds, seed
        self._shape = tuple(int(size) for size in manifest.sample_shape)
        self._range = [float(bound) for bound in manifest.output_range]

    @property
    def _seeds(self) -> NDArray[np.uint64]:
        if self._given is not None:
            return self._given
        return np.array([(self._first + i) % (1 << 64) for i in range(self._n)], np.uint64)

    def latents(self) -> NDArray[np.float32]:
        """The latents that the runtime draws for the seeds, float32 [N, *sample_shape]."""
        latents = np.empty((self._n, *self._shape), np.float32)
        randn(self._seeds, 0, latents.reshape(self._n, -1))
        return latents

    def noise(
        self, source: str | NDArray[np.float32], latents: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Latents and what the rows add; None for what the runtime draws itself."""
        draws = len(self._program.draws)
        if isinstance(source, str):
            if source == noise.PHILOX:
                return latents, None
            if source not in noise.NOISES:
                raise AigcEdgeError(f"noise is {source!r}: it must be {noise.PHILOX}, {', '.join(noise.NOISES)}, or an array")
            drawn = noise.draw(source, self._seeds, self._shape, 1 + draws)
            return (drawn[0] if latents is None else latents), drawn[1:]
        wanted = (draws, self._n, *self._shape)
        if np.shape(source) != wanted:
            raise AigcEdgeError(f"noise has the shape {list(np.shape(source))}: this program adds noise of {list(wanted)}")
        return latents, np.ascontiguousarray(source, dtype=np.float32)

    def known(self, image: NDArray[Any] | None, mask: NDArray[Any] | None, strength: float) -> NDArray[np.float32] | None:
        """The given image as the network knows it, float32 [N, *sample_shape]."""
        if image is None:
            if mask is not None or strength < 1:
                raise AigcEdgeError("a mask or a strength below 1 was given without an image: give the image to start from")
            return None
        if mask is None and strength >= 1:
            raise AigcEdgeError("an image was given alone: give a strength below 1 (image to image), or a mask (inpainting)")
        values = to_float(image, *self._range)
        if values.shape != (self._n, *self._shape) or len(self._shape) != 3:
            channels, height, width = self._shape if len(self._shape) == 3 else (0, 0, 0)
            raise AigcEdgeError(
                f"the image has the shape {list(np.shape(image))}: it must be uint8 {[self._n, height, width, channels]} or "
                f"float32 {[self._n, *self._shape]}"
            )
        return values

    def mask(self, mask: NDArray[Any]) -> NDArray[np.float32]:
        """The mask [N, H, W] or [H, W] as float32 [N, *sample_shape]."""
        chosen = np.asarray(mask, np.float32)
        if chosen.shape not in ((self._n, *self._shape[1:]), self._shape[1:]) or not ((chosen >= 0) & (chosen <= 1)).all():
            raise AigcEdgeError(
                f"the mask has the shape {list(chosen.shape)}: it must be {[self._n, *self._shape[1:]]} or "
                f"{list(self._shape[1:])}, 1 where the image is generated and 0 where it stays"
            )
        each = np.broadcast_to(chosen, (self._n, *self._shape[1:]))
        return np.ascontiguousarray(np.broadcast_to(each[:, None], (self._n, *self._shape)))
