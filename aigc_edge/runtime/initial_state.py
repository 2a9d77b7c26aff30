"""What sampling starts from: latents and noise of the seeds, and an image that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.request import PHILOX, SEEDS, SampleRequest


def seeds_of(request: SampleRequest) -> NDArray[np.uint64]:
    """The seeds [N] of the samples."""
    if request.seeds is not None:
        return np.asarray(request.seeds, np.uint64)
    return np.array([(request.seed + i) % SEEDS for i in range(request.count)], np.uint64)


def latents_of(request: SampleRequest, sample_shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The latents [N, *sample_shape] that the native sampler draws from the seeds."""
    from aigc_edge.ops import randn

    latents = np.empty((request.count, *sample_shape), np.float32)
    randn(seeds_of(request), 0, latents.reshape(request.count, -1))
    return latents


def initial_state(
    request: SampleRequest, program: Program, sample_shape: tuple[int, ...], output_range: Sequence[float]
) -> dict[str, Any]:
    """The fields of the request that say what `program` starts from, as arrays that the native sampler takes.

    Returns latents, noise, mask, known and known_noise, float32 [N, *sample_shape] ([draws, N, *sample_shape]), None for what the
    sampler draws itself. Raises AigcEdgeError for what does not fit the bundle.
    """
    n = request.count
    own = None if request.latents is None else floats("latents", request.latents)
    if own is not None and own.shape != (n, *sample_shape):
        raise AigcEdgeError(f"latents have the shape {list(own.shape)}: they must have {[n, *sample_shape]}")
    latents, draws = _noise(request, own, len(program.draws), sample_shape)
    known, known_noise = _known(request, sample_shape, output_range), request.known_noise
    if known is not None and request.strength < 1:
        known_noise = latents_of(request, sample_shape) if latents is None else latents
        latents = program.add_noise(known, known_noise)
    mask = _mask(request, sample_shape)
    state = {"latents": latents, "noise": draws, "mask": mask}
    state |= {} if mask is None else {"known": known, "known_noise": known_noise}
    absent = dict.fromkeys(("known", "known_noise"))
    return absent | {name: None if value is None else floats(name, value) for name, value in state.items()}


def floats(name: str, value: Any) -> NDArray[np.float32]:
    """The value as a contiguous float32 array; raises AigcEdgeError for what is none."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "c":
            raise TypeError
        return np.ascontiguousarray(array, np.float32)
    except (TypeError, ValueError):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise AigcEdgeError(f"{name} is of the type {kind}: it must be an array of real numbers") from None


def _noise(
    request: SampleRequest, latents: NDArray[np.float32] | None, draws: int, sample_shape: tuple[int, ...]
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Latents and what the rows add; None for what the native sampler draws itself."""
    source = request.noise
    if source is None or isinstance(source, str):
        if source in (None, PHILOX):
            return latents, None
        from aigc_edge.diffusion import noise

        if source not in noise.NOISES:
            raise AigcEdgeError(f"noise is {source!r}: it must be {PHILOX}, {', '.join(noise.NOISES)}, or an array")
        drawn = noise.draw(source, seeds_of(request), sample_shape, 1 + draws)
        return (drawn[0] if latents is None else latents), drawn[1:]
    wanted = (draws, request.count, *sample_shape)
    array = floats("noise", source)
    if array.shape != wanted:
        raise AigcEdgeError(f"noise has the shape {list(array.shape)}: this program adds noise of {list(wanted)}")
    return latents, array


def _known(request: SampleRequest, sample_shape: tuple[int, ...], output_range: Sequence[float]) -> NDArray[np.float32] | None:
    """The image as the denoiser sees it, float32 [N, *sample_shape]."""
    n, image, mask, strength = request.count, request.image, request.mask, request.strength
    if image is None:
        if strength < 1 or (mask is not None and request.known is None):
            raise AigcEdgeError("a mask or a strength below 1 was given without an image: give the image to start from")
        return request.known
    if mask is None and strength >= 1:
        raise AigcEdgeError("an image was given alone: give a strength below 1 (image to image), or a mask (inpainting)")
    from aigc_edge.images import to_float

    values = to_float(
        np.asarray(image) if np.asarray(image).dtype == np.uint8 else floats("image", image),
        *(float(bound) for bound in output_range),
    )
    if values.shape != (n, *sample_shape) or len(sample_shape) != 3:
        channels, height, width = sample_shape if len(sample_shape) == 3 else (0, 0, 0)
        raise AigcEdgeError(
            f"the image has the shape {list(np.shape(image))}: it must be uint8 {[n, height, width, channels]} or "
            f"float32 {[n, *sample_shape]}"
        )
    return values


def _mask(request: SampleRequest, sample_shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The mask [N, H, W] or [H, W] as float32 [N, *sample_shape]."""
    if request.mask is None:
        return None
    n, mask = request.count, floats("mask", request.mask)
    if mask.shape not in ((n, *sample_shape[1:]), sample_shape[1:]) or not ((mask >= 0) & (mask <= 1)).all():
        raise AigcEdgeError(
            f"the mask has the shape {list(mask.shape)}: it must be {[n, *sample_shape[1:]]} or {list(sample_shape[1:])}, 1 "
            "where the image is generated and 0 where it stays"
        )
    each = np.broadcast_to(mask, (n, *sample_shape[1:]))
    return np.ascontiguousarray(np.broadcast_to(each[:, None], (n, *sample_shape)))
