"""Philox4x32-10 and standard normals in NumPy, for the references.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(
    counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: tuple[ArrayLike, ArrayLike]
) -> list[NDArray[np.uint64]]:
    """Four words of 32 bits (in uint64 arrays) for each counter and key of 32-bit words, broadcast against each other."""
    x0, x1, x2, x3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for _ in range(10):
        a, b = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (b >> _HALF) ^ x1 ^ k0, b & _LOW, (a >> _HALF) ^ x3 ^ k1, a & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return [x0, x1, x2, x3]


def standard_normals(seeds: NDArray[np.uint64], draw: int, elements: int, dtype: DTypeLike) -> NDArray[np.floating]:
    """Normals [N, elements] of one draw, computed in `dtype`; the definition stands in `aigc_edge.ops.randn`."""
    kind: type[Any] = np.dtype(dtype).type
    quads = np.arange((elements + 3) // 4, dtype=np.uint64)
    seeds = np.asarray(seeds, np.uint64)[:, None]
    words = philox((quads[None, :], draw, 0, 0), (seeds & _LOW, seeds >> _HALF))
    out = np.empty((*words[0].shape, 4), kind)
    for pair in (0, 2):
        u1 = (words[pair].astype(kind) + kind(0.5)) * kind(2.0**-32)
        u2 = (words[pair + 1] >> np.uint64(8)).astype(kind) * kind(2.0**-24)
        radius = np.sqrt(kind(-2) * np.log(u1))
        angle = kind(2 * np.pi) * u2
        out[..., pair] = radius * np.cos(angle)
        out[..., pair + 1] = radius * np.sin(angle)
    return out.reshape(len(seeds), 4 * len(quads))[:, :elements]
