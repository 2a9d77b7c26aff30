"""Images in floating point, channels first, to bytes, channels last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from aigc_edge.ops._op import op


@op
def latent_to_rgb8(
    images: Annotated[np.ndarray, "in float32[N, C, H, W]"],
    out: Annotated[np.ndarray, "out uint8[N, H, W, C]"],
    scale: Annotated[float, "float64"] = 127.5,
    bias: Annotated[float, "float64"] = 127.5,
) -> None:
    """Write round_half_even(clamp(images * scale + bias, 0, 255)) as bytes, channels last.

    images [N, C, H, W] → out [N, H, W, C]. The defaults map [-1, 1] to [0, 255]; scale 255 and bias 0 map [0, 1]. NaN gives 0.
    The reference computes in the dtype of `images`.
    """
    kind = images.dtype.type
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.nan_to_num(images * kind(scale) + kind(bias), nan=0.0, posinf=255.0, neginf=0.0)
    out[...] = np.rint(np.clip(values, 0, 255)).transpose(0, 2, 3, 1).astype(np.uint8)


def _arguments(images: np.ndarray, **others: Any) -> dict[str, Any]:
    count, channels, height, width = images.shape
    return {"images": images.astype(np.float32), "out": np.zeros((count, height, width, channels), np.uint8)} | others


def samples(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Arguments for the conformance test: 0 to 6 channels, odd sizes, values beyond the range, exact ties, NaN and infinity."""
    for channels in range(7):
        for height, width in ((1, 1), (3, 5), (8, 8), (17, 31), (64, 65)):
            yield _arguments(rng.normal(0, 0.7, (int(rng.integers(1, 4)), channels, height, width)))
    yield _arguments(rng.integers(-5, 262, (2, 3, 9, 9)) + 0.5, scale=1.0, bias=0.0)
    special = rng.uniform(0, 1, (1, 3, 16, 16))
    special.flat[:: int(rng.integers(3, 7))] = np.nan
    special.flat[1::7] = np.inf
    special.flat[2::7] = -np.inf
    special.flat[3::7] = 3e38
    yield _arguments(special, scale=255.0, bias=0.0)
    yield _arguments(np.zeros((0, 3, 4, 4)))


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments to measure: one small image, one of a megapixel, and more than any cache holds."""
    for name, shape in (("3x32x32", (1, 3, 32, 32)), ("3x1024x1024", (1, 3, 1024, 1024)), ("64 MB", (16, 3, 592, 592))):
        yield name, _arguments(rng.normal(0, 0.5, shape))
