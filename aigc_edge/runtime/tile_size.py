"""The tiles that a budget of memory allows."""

from __future__ import annotations

from aigc_edge.bundle.sizes import Size

OVERLAP = 0.25  # of a tile, as the native sampler has it


def largest_tile(image: Size, pixels: int, scale: Size, receptive_field: int = 0) -> Size | None:
    """The tile with which `image` is decoded in the fewest tiles of at most `pixels` pixels; the image itself where it fits.

    `scale` is the height and width in pixels of one latent, which sides are multiples of, and `receptive_field` that of the
    decoder in latents. None where no tile is small enough.
    """
    counts = [1, 1]
    while True:
        tile = tuple(_side(*axis) for axis in zip(image, counts, scale, strict=True))
        if any(side < min(whole, (2 * receptive_field + 1) * unit) for side, whole, unit in zip(tile, image, scale, strict=True)):
            return None
        if tile[0] * tile[1] <= pixels:
            return tile[0], tile[1]
        longer = 0 if tile[0] / scale[0] >= tile[1] / scale[1] else 1
        if tile[longer] <= scale[longer]:
            return None
        counts[longer] += 1


def _side(length: int, count: int, unit: int) -> int:
    """The side of `count` tiles that overlap by a part of OVERLAP and cover `length`, a multiple of `unit`."""
    least = length / (count - (count - 1) * OVERLAP)
    return min(length, -(-int(-(-least // 1)) // unit) * unit)
