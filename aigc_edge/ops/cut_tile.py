"""A tile cut out of images, for a network that takes a part of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from aigc_edge.ops._op import op


@op
def cut_tile(
    image: Annotated[np.ndarray, "in float32[N, C, H, W]"],
    tile: Annotated[np.ndarray, "out float32[N, C, I, J]"],
    top: Annotated[int, "uint32"],
    left: Annotated[int, "uint32"],
) -> None:
    """Copy image[:, :, top : top + I, left : left + J] to tile.

    image [N, C, H, W] → tile [N, C, I, J], which lies within the image.
    """
    tile[...] = image[:, :, top : top + tile.shape[2], left : left + tile.shape[3]]


def places(rng: np.random.Generator) -> Iterator[tuple[tuple[int, ...], int, int, int, int]]:
    """Shapes of images, heights and widths of tiles, and where these lie: the corners, the whole image, anywhere."""
    for height, width in ((1, 1), (5, 3), (17, 31), (64, 70)):
        shape = (int(rng.integers(1, 4)), int(rng.integers(1, 5)), height, width)
        yield shape, height, width, 0, 0
        tall, wide = -(-height // 2), -(-width // 3)
        yield shape, tall, wide, height - tall, width - wide
        yield shape, tall, wide, int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    yield (0, 3, 4, 4), 2, 2, 1, 1


def samples(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Arguments for the conformance test."""
    for shape, tall, wide, top, left in places(rng):
        image, tile = rng.normal(size=shape).astype(np.float32), np.zeros((*shape[:2], tall, wide), np.float32)
        yield {"image": image, "tile": tile, "top": top, "left": left}


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments to measure: a window of the state of a large image, and of the image itself."""
    for name, shape, side in (("4x128x128", (2, 4, 128, 128), 64), ("3x2048x2048", (1, 3, 2048, 2048), 1024)):
        image = rng.normal(size=shape).astype(np.float32)
        yield name, {"image": image, "tile": np.zeros((*shape[:2], side, side), np.float32), "top": side // 2, "left": side // 2}
