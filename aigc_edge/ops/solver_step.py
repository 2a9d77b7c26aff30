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
    output: Annotated[np.ndarray | None, "optional in floating[G, N, E]"] = None,
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
    net_input: Annotated[np.ndarray | None, "optional out floating[K, N, E]"] = None,
    seeds: Annotated[np.ndarray | None, "optional in uint64[N]"] = None,
    nonfinite: Annotated[np.ndarray | None, "optional inout int32[N]"] = None,
    mark: Annotated[int, "int32"] = 1,
    channels: Annotated[int, "int32"] = 0,
    rescale: Annotated[float, "float64"] = 0.0,
    after_output: Annotated[np.ndarray | None, "optional host float64[S]"] = None,
    after_eps: Annotated[np.ndarray | None, "optional in float32[N, E]"] = None,
    before_eps: Annotated[np.ndarray | None, "optional in float32[N, E]"] = None,
    mask: Annotated[np.ndarray | None, "optional in float32[N, E]"] = None,
    known: Annotated[np.ndarray | None, "optional in float32[N, E]"] = None,
    known_eps: Annotated[np.ndarray | None, "optional in float32[N, E]"] = None,
    known_scale: Annotated[float, "float64"] = 1.0,
    known_noise: Annotated[float, "float64"] = 0.0,
) -> None:
    """End row r of a sampling program, begin row r + 1 and write its network input (`aigc_edge.diffusion.program` has the rows).

    slots [S, N, E]: the solver's state, 1 to 8 slots, slot 0 is the noisy sample x. output [G, N, E]: the network's output F of
    row r; with G = 2 the conditional half and then the unconditional one, combined as F = F[1] + guidance (F[0] - F[1]), and with
    `rescale` > 0 multiplied by rescale std(F[0]) / std(F) + 1 - rescale, std over the sample (the ratio of an F of one value is
    1). Then R = c_skip slots[0] + c_out F; D = R clipped: clip_mode 1 to [clip_low, clip_high]; clip_mode 2 to [-s, s] and
    divided by s, where s is the clip_low quantile of the sample's |R| within 1 … clip_high; slots <- after [slots, D] +
    after_output F + after_noise eps(after_draw); slots <- before slots + before_noise eps(before_draw); slots[0] <- known' + mask
    (slots[0] - known') with known' = known_scale known + known_noise known_eps where there is a mask (1: generated, 0: known);
    net_input [K, N, E] = c_in slots[0], K = 1 or 2 times. Before row 0 `output` and `after` are None, after the last row
    `net_input` is None; before = None is the identity.

    eps is `randn(seeds, draw)`, or `after_eps` and `before_eps` where they are passed. output and net_input are float32, float16
    or bfloat16; with `channels` > 1 they are in channels-last order: element c P + p of a slot is their element p C + c, where C
    is `channels` and P = E / C. nonfinite [N]: 0 becomes `mark` where F, R or a new slot of a sample is not finite.

    The reference computes in the dtype of `slots`. Sources: Ho and Salimans 2022 (guidance); Lin et al., WACV 2024 (rescale);
    Saharia et al. 2022 (dynamic thresholding).
    """
    kind = slots.dtype.type
    count, elements = slots.shape[1:]
    with np.errstate(all="ignore"):
        bad = np.zeros(count, bool)
        if output is not None and after is not None:
            halves = np.stack([_in_order(half, channels).astype(kind) for half in output])
            network = halves[0] if len(halves) == 1 else halves[1] + kind(guidance) * (halves[0] - halves[1])
            if len(halves) == 2 and rescale:
                network = network * (kind(rescale) * deviations(halves[0], network) + kind(1 - rescale))
            raw = kind(c_skip) * slots[0] + kind(c_out) * network
            bad |= ~np.isfinite(network).all(1) | ~np.isfinite(raw).all(1)
            denoised = raw
            if clip_mode == 1:
                denoised = np.clip(raw, kind(clip_low), kind(clip_high))
            elif clip_mode == 2 and raw.size:
                bound = np.clip(np.quantile(np.abs(raw), clip_low, axis=1, keepdims=True), 1, clip_high).astype(kind)
                denoised = np.clip(raw, -bound, bound) / bound
            slots[...] = np.einsum("st,tne->sne", after.astype(kind), np.concatenate([slots, denoised[None]]))
            if after_output is not None:
                slots += after_output.astype(kind)[:, None, None] * network
        slots += _noise(after_noise, after_eps, seeds, after_draw, elements, kind)
        if before is not None:
            slots[...] = np.einsum("st,tne->sne", before.astype(kind), slots.copy())
        slots += _noise(before_noise, before_eps, seeds, before_draw, elements, kind)
        bad |= ~np.isfinite(slots).all((0, 2))
        if mask is not None and known is not None:
            image = kind(known_scale) * known.astype(kind)
            if known_noise and known_eps is not None:
                image += kind(known_noise) * known_eps.astype(kind)
            slots[0] = image + mask.astype(kind) * (slots[0] - image)
        if net_input is not None:
            for half in net_input:
                half[...] = _in_order(kind(c_in) * slots[0], elements // channels if channels > 1 else 0)
    if nonfinite is not None:
        nonfinite[bad & (nonfinite == 0)] = mark


def deviations(conditional: np.ndarray, guided: np.ndarray) -> np.ndarray:
    """std(conditional) / std(guided) of each sample [N, ...]; 1 where `guided` is constant up to rounding."""
    axes = tuple(range(1, guided.ndim))
    flat = guided.var(axis=axes, keepdims=True) <= 1e-12 * np.square(guided).mean(axis=axes, keepdims=True)
    of = guided.std(axis=axes, keepdims=True)
    return np.where(flat, of.dtype.type(1), conditional.std(axis=axes, keepdims=True) / np.where(flat, of.dtype.type(1), of))


def _in_order(values: np.ndarray, channels: int) -> np.ndarray:
    """[N, E] with channels last → channels first; the number of pixels instead of `channels` gives the inverse."""
    if channels <= 1:
        return values
    return values.reshape(len(values), -1, channels).swapaxes(1, 2).reshape(values.shape)


def _noise(
    scales: np.ndarray | None, eps: np.ndarray | None, seeds: np.ndarray | None, draw: int, elements: int, kind: type[Any]
) -> np.ndarray:
    if scales is None or not scales.any():
        return np.zeros((), kind)
    noise = standard_normals(seeds, draw, elements, kind) if eps is None else eps.astype(kind)  # type: ignore[arg-type]
    return scales.astype(kind)[:, None, None] * noise


def _arguments(
    rng: np.random.Generator,
    slots: int,
    count: int,
    elements: int,
    halves: int,
    inputs: int,
    noises: int,
    before: bool,
    clip: int,
    *,
    dtype: Any = np.float32,
    **others: Any,
) -> dict[str, Any]:
    """Random arguments of one call; `dtype` is that of the network's tensors."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    after = rng.normal(0, 1, (slots, slots + 1))
    after /= np.abs(after).sum(1, keepdims=True)  # slots stay bounded however often the call is repeated
    after_noise = rng.uniform(0.2, 1, slots) if noises == 2 or (noises == 1 and not before) else None
    arguments = dict(
        slots=normal(slots, count, elements),
        output=normal(halves, count, elements).astype(dtype) if halves else None,
        guidance=rng.uniform(1.5, 6),
        c_skip=rng.uniform(-1, 1),
        c_out=rng.uniform(-1, 1),
        clip_mode=int(clip),
        clip_low=0.9 if clip == 2 else -0.7,
        clip_high=1.3 if clip == 2 else 0.9,
        after=after if halves else None,
        after_noise=after_noise,
        after_draw=int(rng.integers(0, 2**32)),
        before=np.eye(slots) + 0.3 * rng.normal(0, 1, (slots, slots)) if before else None,
        before_noise=rng.uniform(0.2, 1, slots) if noises == 2 or (noises == 1 and before) else None,
        before_draw=int(rng.integers(0, 2**32)),
        c_in=rng.uniform(0.5, 2),
        net_input=np.zeros((inputs, count, elements), dtype) if inputs else None,
        seeds=rng.integers(0, 2**64, count, dtype=np.uint64) if noises else None,
        nonfinite=np.zeros(count, np.int32),
    )
    return arguments | others


def _rare(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What few programs use: other dtypes and layouts, rescale, dynamic clipping, after_output, explicit noise, known regions."""
    for slots, halves, dtype in ((1, 1, np.float16), (2, 2, np.float16), (6, 2, np.float32), (3, 0, np.float16)):
        yield _arguments(rng, slots, 3, 1024, halves, 2, 1, True, 1, dtype=dtype)
        yield _arguments(rng, slots, 2, 1026, halves, 1, 2, False, 0, dtype=dtype, channels=3)
        yield _arguments(rng, slots, 2, 4108, halves, 2, 0, True, 1, dtype=dtype, channels=4, mark=9)
    for elements in (1027, 4500):
        shape = 2, elements

        def normal(shape: tuple[int, int] = shape) -> np.ndarray:
            return rng.normal(0, 1, shape).astype(np.float32)

        yield _arguments(rng, 2, 2, elements, 2, 2, 0, False, 0, rescale=0.7)
        yield _arguments(rng, 1, 2, elements, 2, 1, 1, False, 2, rescale=0.3)
        yield _arguments(rng, 2, 2, elements, 1, 1, 0, True, 2)
        yield _arguments(rng, 3, 2, elements, 1, 1, 1, True, 1, after_output=rng.normal(0, 1, 3))
        yield _arguments(rng, 2, 2, elements, 1, 1, 2, True, 0, after_eps=normal(), before_eps=normal())
        known = {"mask": rng.uniform(0, 1, shape).astype(np.float32), "known": normal(), "known_eps": normal()}
        yield _arguments(rng, 2, 2, elements, 2, 2, 1, True, 0, known_scale=0.8, known_noise=0.6, **known)
        yield _arguments(rng, 5, 2, elements, 1, 0, 0, False, 1, **known)


def samples(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Arguments for the conformance test: 1 to 8 slots, all numbers of halves and noises, tails, blocks, infinity, NaN."""
    sizes = (1, 3, 16, 17, 64, 67, 257, 1024, 1029, 4096, 4101, 8200)
    for case, (slots, halves, noises) in enumerate(np.ndindex(8, 3, 3)):
        elements = sizes[case % len(sizes)]
        count = 1 + case % 4 if elements > 16 else 9  # a handful of numbers would make an error a matter of luck
        yield _arguments(rng, slots + 1, count, elements, halves, case % 3, noises, bool(case % 2), bool(case // 2 % 2))
    for value in (np.nan, np.inf, -np.inf):
        for name in ("slots", "output"):
            arguments = _arguments(rng, 2, 3, 1029, 2, 2, 1, False, True)
            arguments[name][0, 1, int(rng.integers(1029))] = value
            yield arguments
    yield _arguments(rng, 2, 0, 5, 1, 1, 1, False, False)
    yield from _rare(rng)


def workloads(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments to measure: DPM-Solver++ 2M (two slots, no noise), guided and not, and Euler-ancestral (one slot, noise)."""
    for name, count, elements in (("3x32x32", 1, 3072), ("3x256x256", 1, 196608), ("64 MB", 85, 196608)):
        yield f"2 slots {name}", _arguments(rng, 2, count, elements, 1, 1, 0, False, False)
        if count == 1:
            yield f"2 slots, guided {name}", _arguments(rng, 2, count, elements, 2, 2, 0, False, True)
            yield f"1 slot, noise {name}", _arguments(rng, 1, count, elements, 1, 1, 1, False, False)
            yield f"2 slots, float16 {name}", _arguments(rng, 2, count, elements, 1, 1, 0, False, False, dtype=np.float16)
