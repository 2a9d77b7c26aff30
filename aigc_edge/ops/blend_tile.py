"""Weighted tiles added into images, which overlapping tiles make up together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from aigc_edge.ops._op import op


@op
def blend_tile(
    tile: Annotated[np.ndarray, "in float32[N, C, I, J]"],
    rows: Annotated[np.ndarray, "in float32[I]"],
    columns: Annotated[np.ndarray, "in float32[J]"],
    image: Annotated[np.ndarray, "inout float32[N, C, H, W]"],
    top: Annotated[int, "uint32"],
    left: Annotated[int, "uint32"],
) -> None:
    """Add rows[:, None] * columns * tile to image[:, :, top : top + I, left : left + J].

    tile [N, C, I, J], rows [I] and columns [J] → image [N, C, H, W]. Where the weights of all tiles that cover a pixel add up to
    1, the image is their weighted mean. The reference computes in the dtype of `tile`.
    """
    image[:, :, top : top + tile.shape[2], left : left + tile.shape[3]] += rows[:, None] * columns * tile


def samples(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Arguments for the conformance test."""
    from aigc_edge.ops.cut_tile import places

    for shape, tall, wide, top, left in places(rng):
        tile, image = rng.normal(size=(*shape[:2], tall, wide)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
        rows, columns = (rng.uniform(size=side).astype(np.float32) for side in (tall, wide))
        yield {"tile": tile, "rows": rows, "columns": columns, "image": image, "top": top, "left": left}


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments to measure: a window of the state of a large image, and of the image itself."""
    for name, shape, side in (("4x128x128", (2, 4, 128, 128), 64), ("3x2048x2048", (1, 3, 2048, 2048), 1024)):
        tile, weights = rng.normal(size=(*shape[:2], side, side)).astype(np.float32), np.full(side, 0.5, np.float32)
        image = np.zeros(shape, np.float32)
        yield name, {"tile": tile, "rows": weights, "columns": weights, "image": image, "top": side // 2, "left": side // 2}
