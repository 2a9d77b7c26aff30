"""The reference executor: sampling programs in NumPy float64, the oracle for tests and for calibration.

It defines what a program means: every other executor is tested against it, and calibration and tuning take from it the states
that a network sees. It favours clarity over speed; to sample, use `aigc_edge.diffusion.sample` or a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import Matrix, Row
from aigc_edge.errors import ProgramError

NetworkFunction = Callable[..., np.ndarray]
"""(sample [M, ...], timestep [M], classes [M] or None, **conditions) → output [M, ...]."""
DecoderFunction = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
"""(latents [N, ...], classes [N] or None) → images."""
NoiseFunction = Callable[[np.ndarray, int, "tuple[int, ...]"], np.ndarray]
"""(seeds [N] uint64, index of the draw, shape [N, ...]) → unit normal noise."""
_Conditions = Mapping[str, Any]


def run(
    program: Program,
    network: NetworkFunction | None,
    latents: np.ndarray,
    *,
    seeds: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    null_class: int | None = None,
    negative_classes: np.ndarray | None = None,
    conditions: _Conditions | None = None,
    negative_conditions: _Conditions | None = None,
    guidance_input: str | None = None,
    guidance_scale: float | None = None,
    mask: np.ndarray | None = None,
    known: np.ndarray | None = None,
    known_noise: np.ndarray | None = None,
    draw: NoiseFunction | None = None,
    decoder: DecoderFunction | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Run `program` on unit normal `latents` [N, C, H, W] (or any [N, ...]); returns slot 0, or what `decoder` makes of it.

    `network(sample [M, C, H, W], timestep [M], classes [M] int64 or None, **conditions)` → [M, C, H, W]. M = 2 N in a guided row:
    the first N samples get `classes` [N] and `conditions` [N or 1, ...] by name, the others `negative_classes` [N] (by default
    `null_class`) and `negative_conditions`. A network with the guidance weight as an input gets it as the keyword
    `guidance_input`, [N], and no row is doubled. Where `mask` [N, C, H, W] is 0 the sample is `known` [N, C, H, W], brought to
    each row's noise level with `known_noise` [N, C, H, W] (the latents by default). `guidance_scale` replaces the program's own.

    `draw(seeds [N] uint64, index, shape [N, C, H, W])` returns unit normal noise, index 2 r + 1 before and 2 r + 2 after row r.
    It is called only where a row adds noise, and by default is the library's own Philox noise. All arithmetic around the network
    is done in `dtype`. Raises ProgramError where guidance lacks classes and conditions, a mask lacks known values or levels, or a
    program without rows lacks a decoder.
    """
    dtype = np.dtype(dtype).type
    if guidance_scale is not None:
        program = program.with_guidance(guidance_scale)
    x = np.asarray(latents, dtype) * dtype(program.init_scale)
    labels = None if classes is None else np.asarray(classes, np.int64)
    negative = None if negative_classes is None else np.asarray(negative_classes, np.int64)
    if negative is None and null_class is not None:
        negative = np.full(len(x), null_class, np.int64)
    own = _rows(conditions, len(x), dtype), _rows(negative_conditions, len(x), dtype)
    if mask is not None and (known is None or any(row.level is None for row in program.rows)):
        raise ProgramError("a mask needs what is known, and a program whose rows say their level")
    if program.rows and network is None:
        raise ProgramError("a program with rows needs a network")
    if not program.rows and decoder is None:
        raise ProgramError("a program without rows needs a decoder")
    seeds = np.arange(len(x), dtype=np.uint64) if seeds is None else np.asarray(seeds, np.uint64)
    draw = draw or _library_noise

    eps = np.asarray(latents if known_noise is None else known_noise, dtype)
    slots = np.zeros((program.slots, *x.shape), dtype)
    slots[0] = x
    for index, (row, weight) in enumerate(zip(program.rows, program.weights, strict=True)):
        if row.before is not None:
            slots = _combine(row.before, slots, dtype)
        slots += _noise(row.before_noise, draw, seeds, 2 * index + 1, slots, dtype)
        if mask is not None:
            slots[0] = _blend(slots[0], mask, known, row.level, eps, dtype)
        if guidance_input is not None:
            embedded = {**own[0], guidance_input: np.full(len(x), weight, dtype)}
            output = _evaluate(network, row, 1.0, 0.0, slots[0], (labels, None), (embedded, {}), dtype)
        else:
            output = _evaluate(network, row, weight, program.guidance_rescale, slots[0], (labels, negative), own, dtype)
        raw = dtype(row.c_skip) * slots[0] + dtype(row.c_out) * output
        slots = _combine(row.after, np.concatenate([slots, _clipped(row, raw, dtype)[None]]), dtype)
        if row.after_output is not None:
            slots += np.multiply.outer(np.array(row.after_output, dtype), output)
        slots += _noise(row.after_noise, draw, seeds, 2 * index + 2, slots, dtype)
    if mask is not None:
        slots[0] = _blend(slots[0], mask, known, (1.0, 0.0), eps, dtype)
    return slots[0] if decoder is None else decoder(slots[0], labels)


def _rows(conditions: _Conditions | None, count: int, dtype: Any) -> dict[str, np.ndarray]:
    """Conditions broadcast to all samples."""
    arrays = {name: np.asarray(value, dtype) for name, value in (conditions or {}).items()}
    for name, value in arrays.items():
        if value.ndim < 1 or len(value) not in (1, count):
            raise ProgramError(f"condition {name!r} has the shape {list(value.shape)}: its first size must be {count} or 1")
    return {name: np.broadcast_to(value, (count, *value.shape[1:])) for name, value in arrays.items()}


def _combine(matrix: Matrix, inputs: np.ndarray, dtype: Any) -> np.ndarray:
    return np.tensordot(np.array(matrix, dtype), inputs, axes=1)


def _noise(
    scales: tuple[float, ...] | None, draw: NoiseFunction, seeds: np.ndarray, index: int, slots: np.ndarray, dtype: Any
) -> np.ndarray:
    if scales is None or not any(scales):
        return np.zeros((), dtype)
    noise = np.asarray(draw(seeds, index, slots.shape[1:]), dtype)
    return np.multiply.outer(np.array(scales, dtype), noise)


def _blend(x: np.ndarray, mask: Any, known: Any, level: Any, eps: np.ndarray, dtype: Any) -> np.ndarray:
    image = dtype(level[0]) * np.asarray(known, dtype) + dtype(level[1]) * eps
    return image + np.asarray(mask, dtype) * (x - image)


def _clipped(row: Row, raw: np.ndarray, dtype: Any) -> np.ndarray:
    if row.clip is not None:
        return np.clip(raw, dtype(row.clip[0]), dtype(row.clip[1]))
    if row.threshold is None:
        return raw
    axes = tuple(range(1, raw.ndim))
    bound = np.clip(np.quantile(np.abs(raw), row.threshold[0], axis=axes, keepdims=True), 1, row.threshold[1]).astype(dtype)
    return np.clip(raw, -bound, bound) / bound


def _evaluate(
    network: Any,
    row: Row,
    weight: float,
    rescale: float,
    x: np.ndarray,
    classes: tuple[np.ndarray | None, np.ndarray | None],
    conditions: tuple[_Conditions, _Conditions],
    dtype: Any,
) -> np.ndarray:
    sample = dtype(row.c_in) * x
    (labels, negative), (positive, other) = classes, conditions
    if weight == 1.0:
        return np.asarray(network(sample, np.full(len(x), row.timestep, dtype), labels, **positive), dtype)
    if (labels is None and not positive) or (labels is not None and negative is None):
        raise ProgramError("guidance needs a class for each sample and the null class: give both, or a guidance scale of 1")
    if set(positive) != set(other):
        raise ProgramError(
            f"guidance needs negative conditions of the same names: {sorted(positive)} and {sorted(other)} were given; give "
            "both, or a guidance scale of 1"
        )
    both = None if labels is None or negative is None else np.concatenate([labels, negative])
    times, joined = np.full(2 * len(x), row.timestep, dtype), {k: np.concatenate([v, other[k]]) for k, v in positive.items()}
    output = np.asarray(network(np.concatenate([sample, sample]), times, both, **joined), dtype)
    conditional, unconditional = output[: len(x)], output[len(x) :]
    guided = unconditional + dtype(weight) * (conditional - unconditional)
    if rescale:
        from aigc_edge.ops.solver_step import deviations

        guided = guided * (dtype(rescale) * deviations(conditional, guided) + dtype(1 - rescale))
    return guided


def _library_noise(seeds: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
    from aigc_edge.ops import randn

    noise = np.empty((shape[0], int(np.prod(shape[1:]))))  # float64: the definition, not its rounding
    randn.reference(seeds, index, noise)
    return noise.reshape(shape)
