"""Errors between two results from the same noise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import AigcEdgeError


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.size == 0:
        raise AigcEdgeError(
            f"shapes {list(x.shape)} and {list(y.shape)} cannot be compared: give two arrays of one shape, not empty"
        )
    for name, values in (("first", x), ("second", y)):
        bad = values.size - int(np.isfinite(values).sum())
        if bad:  # comparisons with NaN are false, so NaN must not be mistaken for a pass
            raise AigcEdgeError(
                f"{bad} of {values.size} values of the {name} array are NaN or infinite: check the network that computed it"
            )
    return x, y


def psnr(a: npt.ArrayLike, b: npt.ArrayLike, data_range: float = 2.0) -> float:
    """Peak signal-to-noise ratio in dB over all elements; infinite for equal arrays. `data_range` is 2 for images in [-1, 1].

    Raises AigcEdgeError for different shapes, empty arrays and values that are not finite.
    """
    x, y = _pair(a, b)
    error = float(np.mean(np.square(x - y)))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def relative_l2(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """|a − b| / |b| over all elements, `b` the reference; 0 for equal arrays, infinite when only the reference is zero.

    Raises AigcEdgeError as `psnr` does.
    """
    x, y = _pair(a, b)
    error, size = float(np.linalg.norm(x - y)), float(np.linalg.norm(y))
    return 0.0 if error == 0 else error / size if size > 0 else math.inf
