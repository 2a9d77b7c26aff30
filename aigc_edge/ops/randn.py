"""Standard normal numbers, the same for a sample whatever the batch, the device and the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from aigc_edge.ops._op import op
from aigc_edge.ops._philox import standard_normals


@op
def randn(
    seeds: Annotated[np.ndarray, "in uint64[N]"],
    draw: Annotated[int, "uint32"],
    out: Annotated[np.ndarray, "out float32[N, E]"],
) -> None:
    """Fill `out` with standard normals: sample n's element e depends on seeds[n], `draw` and e, and on nothing else.

    seeds [N]: one 64-bit seed a sample. draw 0 … 2^32 - 1: independent streams of one seed; latents are draw 0. out [N, E], E at
    most 2^34. Definition: Philox4x32-10 with key (seed mod 2^32, seed // 2^32) and counter (e // 4, draw, 0, 0) gives words
    x0 … x3. With u1 = (x0 + 0.5) / 2^32, u2 = (x1 // 2^8) / 2^24, r = sqrt(-2 ln u1): z0 = r cos(2 pi u2), z1 = r sin(2 pi u2);
    z2 and z3 likewise from x2 and x3; element e is z[e % 4].

    The reference computes in the dtype of `out`. Sources: Salmon et al., SC 2011; Box and Muller, 1958.
    """
    out[...] = standard_normals(seeds, draw, out.shape[1], out.dtype)


def _arguments(rng: np.random.Generator, count: int, elements: int, **others: Any) -> dict[str, Any]:
    seeds = rng.integers(0, 2**64, count, dtype=np.uint64)
    return {"seeds": seeds, "draw": 0, "out": np.zeros((count, elements), np.float32)} | others


def samples(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Arguments for the conformance test: every tail of every vector width, several samples, all bits of seed and draw."""
    for elements in (1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 32, 33, 63, 64, 100, 1023, 4095, 4096, 4097, 12288):
        yield _arguments(rng, int(rng.integers(1, 5)), elements, draw=int(rng.integers(0, 2**32)))
    yield _arguments(rng, 2, 65, seeds=np.array([0, 2**64 - 1], np.uint64))
    yield _arguments(rng, 0, 5, draw=1)
    yield _arguments(rng, 2, 0, draw=1)


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments to measure: latents of a small and a large image, and more than any cache holds."""
    for name, count, elements in (("3x32x32", 1, 3072), ("3x256x256", 1, 196608), ("64 MB", 16, 2**20)):
        yield name, _arguments(rng, count, elements)
