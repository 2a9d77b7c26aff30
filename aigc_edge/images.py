"""Image conversion, grids and PNG files (NumPy and Pillow only)."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file


def to_uint8(images: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """float [N, C, H, W] in [-1, 1] → uint8 [N, H, W, C], clamped and rounded half to even as the runtime does."""
    levels = np.rint(np.clip((images.astype(np.float32) + np.float32(1)) / np.float32(2) * np.float32(255), 0, 255))
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1)).astype(np.uint8)


def to_float(images: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """uint8 [N, H, W, C] → float32 [N, C, H, W] in [low, high]; floating-point images [N, C, H, W] are returned unchanged."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4:
        return np.ascontiguousarray(array, np.float32)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2) * np.float32((high - low) / 255) + np.float32(low), np.float32)


def grid(images: NDArray[np.uint8], *, columns: int | None = None, border: int = 1, smallest: int = 48) -> NDArray[np.uint8]:
    """Arrange uint8 images [N, H, W, C] row by row in one picture [height, width, C].

    `columns` is near square when None; `border` is the width of the grey lines in pixels of the picture. Images with a side below
    `smallest` pixels are enlarged by a whole factor (nearest neighbour), so that small ones can be seen. Raises AigcEdgeError for
    anything but uint8 [N, H, W, C] with N >= 1 and 1 or 3 channels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise AigcEdgeError(f"a grid takes uint8 [N, H, W, 1 or 3] with N >= 1, not {images.dtype} {list(images.shape)}")
    if columns is not None and columns < 1:
        raise AigcEdgeError(f"a grid of {columns} columns was requested: give at least 1")
    number, height, width, channels = images.shape
    columns = min(number, columns or math.ceil(math.sqrt(number)))
    rows = math.ceil(number / columns)
    factor = max(1, math.ceil(smallest / min(height, width)))
    high, wide = height * factor + border, width * factor + border
    picture = np.full((rows * high + border, columns * wide + border, channels), 96, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * high + border, index % columns * wide + border
        picture[top : top + high - border, left : left + wide - border] = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return picture


def write_png(path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 1 or 3] as a PNG file, atomically; raises AigcEdgeError when it cannot be written."""
    try:
        from PIL import Image
    except ImportError as error:
        raise AigcEdgeError("writing a PNG needs Pillow: pip install pillow, or write a .npz") from error
    with atomic_file(path) as part:
        Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(part, format="PNG", optimize=True)
