"""The tiles that a budget of memory allows."""

from __future__ import annotations

from aigc_edge.bundle.sizes import Size

OVERLAP = 0.25  # of a tile, as the native sampler has it


def largest_tile(image: Size, pixels: int, scale: Size, receptive_field: int = 0) -> Size | None:
    """The tile with which `image` is decoded in the fewest tiles of at most `pixels` pixels; the image itself where it fits.

    Of several such tiles it is the smallest. `scale` is the height and width in pixels of one latent, which sides are multiples
    of, and `receptive_field` that of the decoder in latents. None where no tile is small enough.
    """
    rows, columns = (_sides(length // unit, receptive_field) for length, unit in zip(image, scale, strict=True))
    possible = [
        (m * n, tall * wide, n, (tall * scale[0], wide * scale[1]))
        for m, tall in rows.items()
        for n, wide in columns.items()
        if tall * scale[0] * wide * scale[1] <= pixels
    ]
    return min(possible)[-1] if possible else None


def _sides(length: int, field: int) -> dict[int, int]:
    """The smallest side, in latents, of each number of tiles along an axis that overlap as they do by default."""
    sides = {}
    for side in range(length, min(length, 2 * field + 1) - 1, -1):
        overlap = max(int(side * OVERLAP), min(2 * field, side // 2))
        sides[1 + -(-(length - side) // (side - overlap))] = side
    return sides
