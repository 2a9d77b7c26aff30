"""All that happens between two network evaluations, in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from aigc_edge.ops._op import op
from aigc_edge.ops._philox import standard_normals


@op
def solver_step(
    slots: Annotated[np.ndarray, "inout float32[S, N, E]"],
    output: Annotated[np.ndarray | None, "optional in float32[G, N, E]"] = None,
    guidance: Annotated[float, "float64"] = 1.0,
    c_skip: Annotated[float, "float64"] = 0.0,
    c_out: Annotated[float, "float64"] = 1.0,
    clip_mode: Annotated[int, "int32"] = 0,
    clip_low: Annotated[float, "float64"] = -1.0,
    clip_high: Annotated[float, "float64"] = 1.0,
    after: Annotated[np.ndarray | None, "optional host float64[S, S+1]"] = None,
    after_noise: Annotated[np.ndarray | None, "optional host float64[S]"] = None,
    after_draw: Annotated[int, "uint32"] = 0,
    before: Annotated[np.ndarray | None, "optional host float64[S, S]"] = None,
    before_noise: Annotated[np.ndarray | None, "optional host float64[S]"] = None,
    before_draw: Annotated[int, "uint32"] = 0,
    c_in: Annotated[float, "float64"] = 1.0,
    net_input: Annotated[np.ndarray | None, "optional out float32[K, N, E]"] = None,
    seeds: Annotated[np.ndarray | None, "optional in uint64[N]"] = None,
    nonfinite: Annotated[np.ndarray | None, "optional inout int32[N]"] = None,
) -> None:
    """End row r of a sampling program, begin row r + 1 and write its network input (`aigc_edge.diffusion.program` has the rows).

    slots [S, N, E]: the solver's state, 1 to 8 slots, slot 0 is the noisy sample x. output [G, N, E]: the network's output F of
    row r; with G = 2 the conditional half and then the unconditional one, joined as F = F[1] + guidance (F[0] - F[1]). Then
    D = c_skip slots[0] + c_out F, clipped to [clip_low, clip_high] when clip_mode is 1; slots <- after [slots, D] + after_noise
    eps(after_draw); slots <- before slots + before_noise eps(before_draw); net_input [K, N, E] = c_in slots[0], K = 1 or 2 times.
    Before row 0 `output` and `after` are None, after the last row `net_input` is None; before = None is the identity. eps is
    `randn(seeds, draw)`. nonfinite [N] is set to 1 where F, D before the clip or a new slot of that sample is not finite.

    The reference computes in the dtype of `slots`.
    """
    kind = slots.dtype.type
    count, elements = slots.shape[1:]
    with np.errstate(all="ignore"):
        bad = np.zeros(count, bool)
        if output is not None and after is not None:
            network = output[0] if len(output) == 1 else output[1] + kind(guidance) * (output[0] - output[1])
            denoised = kind(c_skip) * slots[0] + kind(c_out) * network
            bad |= ~np.isfinite(network).all(1) | ~np.isfinite(denoised).all(1)
            if clip_mode:
                denoised = np.clip(denoised, kind(clip_low), kind(clip_high))
            slots[...] = np.einsum("st,tne->sne", after.astype(kind), np.concatenate([slots, denoised[None]]))
        if after_noise is not None and after_noise.any():
            slots += after_noise.astype(kind)[:, None, None] * standard_normals(seeds, after_draw, elements, kind)  # type: ignore[arg-type]
        if before is not None:
            slots[...] = np.einsum("st,tne->sne", before.astype(kind), slots.copy())
        if before_noise is not None and before_noise.any():
            slots += before_noise.astype(kind)[:, None, None] * standard_normals(seeds, before_draw, elements, kind)  # type: ignore[arg-type]
        if net_input is not None:
            net_input[...] = kind(c_in) * slots[0]
        bad |= ~np.isfinite(slots).all((0, 2))
    if nonfinite is not None:
        nonfinite[bad] = 1


def _arguments(
    rng: np.random.Generator,
    slots: int,
    count: int,
    elements: int,
    halves: int,
    inputs: int,
    noises: int,
    before: bool,
    clip: bool,
) -> tuple[Any, ...]:
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    after = rng.normal(0, 1, (slots, slots + 1))
    after /= np.abs(after).sum(1, keepdims=True)  # slots stay bounded however often the call is repeated
    after_noise = rng.uniform(0.2, 1, slots) if noises == 2 or (noises == 1 and not before) else None
    return (
        normal(slots, count, elements),
        normal(halves, count, elements) if halves else None,
        rng.uniform(1.5, 6),
        rng.uniform(-1, 1),
        rng.uniform(-1, 1),
        int(clip),
        -0.7,
        0.9,
        after if halves else None,
        after_noise,
        int(rng.integers(0, 2**32)),
        np.eye(slots) + 0.3 * rng.normal(0, 1, (slots, slots)) if before else None,
        rng.uniform(0.2, 1, slots) if noises == 2 or (noises == 1 and before) else None,
        int(rng.integers(0, 2**32)),
        rng.uniform(0.5, 2),
        np.zeros((inputs, count, elements), np.float32) if inputs else None,
        rng.integers(0, 2**64, count, dtype=np.uint64) if noises else None,
        np.zeros(count, np.int32),
    )


def samples(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    """Arguments for the conformance test: 1 to 8 slots, all numbers of halves and noises, tails, blocks, infinity, NaN."""
    sizes = (1, 3, 16, 17, 64, 67, 257, 1024, 1029, 4096, 4101, 8200)
    for case, (slots, halves, noises) in enumerate(np.ndindex(8, 3, 3)):
        elements = sizes[case % len(sizes)]
        count = 1 + case % 4 if elements > 16 else 9  # a handful of numbers would make an error a matter of luck
        yield _arguments(rng, slots + 1, count, elements, halves, case % 3, noises, bool(case % 2), bool(case // 2 % 2))
    for value in (np.nan, np.inf, -np.inf):
        for place in (0, 1):
            arguments = _arguments(rng, 2, 3, 1029, 2, 2, 1, False, True)
            arguments[place][0, 1, int(rng.integers(1029))] = value
            yield arguments
    yield _arguments(rng, 2, 0, 5, 1, 1, 1, False, False)


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments to measure: DPM-Solver++ 2M (two slots, no noise), guided and not, and Euler-ancestral (one slot, noise)."""
    for name, count, elements in (("3x32x32", 1, 3072), ("3x256x256", 1, 196608), ("64 MB", 85, 196608)):
        yield f"2 slots {name}", _arguments(rng, 2, count, elements, 1, 1, 0, False, False)
        if count == 1:
            yield f"2 slots, guided {name}", _arguments(rng, 2, count, elements, 2, 2, 0, False, True)
            yield f"1 slot, noise {name}", _arguments(rng, 1, count, elements, 1, 1, 1, False, False)
