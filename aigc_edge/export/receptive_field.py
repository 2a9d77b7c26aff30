"""How far a pixel of a decoder depends on the latents around it, which tiles must not be smaller than."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.sizes import Size
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.export.session import session_of

SHARE = 0.01  # of the largest change, below which a change does not count: normalisation and attention see the whole
IMAGE = 3  # dimensions without the batch


def receptive_field(network: Path, spec: ComponentSpec, size: Size | None) -> int | None:
    """The distance, in latents, within which a change of one latent changes the image, measured with the ONNX file at `size`.

    The latent in the middle of a normal sample is changed; what changes by less than 1 % of the most does not count. None where
    the network maps no image to an image, or where its latents are too few to say.
    """
    spec = spec if size is None else spec.at(size)
    sample, image = spec.inputs[0], spec.outputs[0]
    (channels, *latent), (_, *pixels) = sample.shape[1:], image.shape[1:]
    if len(spec.inputs) != 1 or len(sample.shape) != 1 + IMAGE or any(p % s for p, s in zip(pixels, latent, strict=True)):  # type: ignore[operator]
        return None
    height, width = (int(side) for side in latent)
    middle = height // 2, width // 2
    before = np.random.default_rng(0).standard_normal((1, int(channels), height, width), np.float32)
    after = before.copy()
    after[:, :, middle[0], middle[1]] += 1
    session = session_of(network)
    images = [session.run(None, {sample.name: values})[0] for values in (before, after)]
    return reach(np.abs(images[1] - images[0]).max(axis=(0, 1)), (height, width), middle)


def reach(change: NDArray[np.float32], latent: Size, middle: Size) -> int | None:
    """The distance from `middle` at which an image [H, W] of `latent` entries still changes; None where that is the border."""
    height, width = latent
    blocks = change.reshape(height, change.shape[0] // height, width, change.shape[1] // width).max(axis=(1, 3))
    rows, columns = np.nonzero(blocks > SHARE * blocks.max())
    if not len(rows):
        return None
    distance = int(max(np.abs(rows - middle[0]).max(), np.abs(columns - middle[1]).max()))
    return distance if distance < min(height - 1 - middle[0], width - 1 - middle[1], *middle) else None
