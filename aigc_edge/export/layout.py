"""Where images have their channels: [N, C, H, W] in bundles, often [N, H, W, C] in networks of other frameworks."""

from __future__ import annotations

from collections.abc import Sequence

NARROW, WIDE = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations to channels first, and to channels last
COLOURS = frozenset((1, 2, 3, 4))  # channels of images and of most latents

Shape = Sequence[int | None]  # None: dynamic


def channels_last(shapes: Sequence[Shape], layout: str | None) -> list[bool]:
    """Whether each of the `shapes` is an image [N, H, W, C]: as `layout` ("nchw" or "nhwc") says, or as they show together."""
    images = [len(shape) == 4 for shape in shapes]
    if layout is not None:
        return [image and layout == "nhwc" for image in images]
    evident = any(
        image and shape[3] in COLOURS and not COLOURS & {*shape[1:3]} for shape, image in zip(shapes, images, strict=True)
    )
    return [evident and image and shape[1] not in COLOURS for shape, image in zip(shapes, images, strict=True)]
