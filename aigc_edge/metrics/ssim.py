"""Structural similarity of two sets of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import AigcEdgeError
from aigc_edge.metrics.paired import peak_of

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004


def ssim(images: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], data_range: float | None = None) -> float:
    """Mean SSIM of images [N, C, H, W] against `reference`, in [-1, 1], 1 for equal images (Wang et al. 2004).

    Gaussian windows of 11 pixels with sigma 1.5, smaller in smaller images, entirely within the image; channels are averaged.
    `data_range` is by default that of the reference, its largest minus its smallest value, so that low contrast does not hide
    errors. Raises AigcEdgeError for shapes that differ.
    """
    if images.shape != reference.shape or images.ndim != 4:
        raise AigcEdgeError(f"images of shape {list(images.shape)} and {list(reference.shape)}: give two of [N, C, H, W]")
    size = min(WINDOW, *(side - 1 + side % 2 for side in images.shape[2:]))
    offsets = np.arange(size) - size // 2
    window = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    window /= window.sum()

    def blurred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        rows = np.lib.stride_tricks.sliding_window_view(values, size, axis=1) @ window
        return np.lib.stride_tricks.sliding_window_view(rows, size, axis=2) @ window

    peak = (peak_of(reference) or 1.0) if data_range is None else data_range
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    total = 0.0
    for one, other in zip(images, reference, strict=True):  # one image at a time: the windows take eleven times its memory
        x, y = one.astype(np.float64), other.astype(np.float64)
        mean_x, mean_y = blurred(x), blurred(y)
        var_x, var_y, both = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2, blurred(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        total += float((luminance * (2 * both + c2) / (var_x + var_y + c2)).mean())
    return total / len(images)
