"""Errors between two results from the same noise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from aigc_edge.compress.evaluation.quality import centred
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


def peak_of(reference: npt.ArrayLike) -> float:
    """Largest minus smallest value of `reference`, or its magnitude where it is constant."""
    y = np.asarray(reference, np.float64)
    return float(np.ptp(y)) or float(np.abs(y).max())


def psnr(a: npt.ArrayLike, b: npt.ArrayLike, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all elements; infinite for equal arrays, -infinite where the peak is zero.

    `data_range` is by default that of the reference `b` (`peak_of`): with that of the data type, dark or low-contrast results
    would pass whatever they look like. Raises AigcEdgeError for different shapes, empty arrays and values that are not finite.
    """
    x, y = _pair(a, b)
    error = float(np.mean(np.square(x - y)))
    peak = peak_of(y) if data_range is None else data_range
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error) if peak > 0 else -math.inf


def relative_l2(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """|a − b| / |b| over all elements, `b` the reference; 0 for equal arrays, infinite when only the reference is zero.

    Raises AigcEdgeError as `psnr` does.
    """
    x, y = _pair(a, b)
    error, size = float(np.linalg.norm(x - y)), float(np.linalg.norm(y))
    return 0.0 if error == 0 else error / size if size > 0 else math.inf


def centred_l2(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """|a − b| / |what varies in b|, `b` the reference; infinite where nothing varies but `a` differs.

    A constant offset of the reference does not make an error look small, as it does in `relative_l2`. Raises as `psnr` does.
    """
    x, y = _pair(a, b)
    error, size = float(np.linalg.norm(x - y)), float(np.linalg.norm(centred(y)))
    return 0.0 if error == 0 else error / size if size > 0 else math.inf


def compare(results: npt.ArrayLike, reference: npt.ArrayLike) -> dict[str, float | None]:
    """The figures of results [N, C, ...] against the reference from the same noise: psnr (dB), relative_l2 and centred_l2.

    Infinite figures are None: a psnr of None means equal results, a centred_l2 of None a reference that does not vary. A psnr is
    at least −200.
    """
    values = max(psnr(results, reference), -200.0), relative_l2(results, reference), centred_l2(results, reference)
    return {
        name: value if math.isfinite(value) else None
        for name, value in zip(("psnr", "relative_l2", "centred_l2"), values, strict=True)
    }
