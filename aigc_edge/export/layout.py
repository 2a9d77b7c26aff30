"""Where images have their channels: [N, C, H, W] in bundles, often [N, H, W, C] in networks of other frameworks."""

from __future__ import annotations

from collections.abc import Sequence

NARROW, WIDE = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations to channels first, and to channels last
COLOURS = frozenset((1, 2, 3, 4))  # channels of images and of most latents

Shape = Sequence[int | None]  # None: dynamic


def channels_last(shapes: Sequence[Shape], layout: str | None) -> list[bool]:
    """Whether each of the `shapes` is an image [N, H, W, C]: as `layout` ("nchw" or "nhwc") says, or as they show together.

    Without `layout`, what may be either, such as a signal or spectrogram [N, C, L, 1], is [N, C, H, W].
    """
    images = [len(shape) == 4 for shape in shapes]
    if layout is not None:
        return [image and layout == "nhwc" for image in images]
    known = [shape for shape, image in zip(shapes, images, strict=True) if image]
    if any(_first(shape) for shape in known):  # beside such a tensor, others need evidence of their own
        return [image and _square(shape) for shape, image in zip(shapes, images, strict=True)]
    evident = any(_square(shape) or (_last(shape) and shape[3] != 1) for shape in known)
    return [evident and image and shape[1] not in COLOURS for shape, image in zip(shapes, images, strict=True)]


def _first(shape: Shape) -> bool:
    return shape[1] in COLOURS and shape[3] not in COLOURS


def _last(shape: Shape) -> bool:
    return shape[3] in COLOURS and not COLOURS & {*shape[1:3]}


def _square(shape: Shape) -> bool:
    """Whether an image with its channels last is square, or of any height, which a number of channels cannot be."""
    return _last(shape) and shape[1] in (shape[2], None)
