"""The executor of sampling programs in NumPy: it says what every other executor has to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aigc_edge.diffusion.program import Matrix, Program, Row
from aigc_edge.errors import ProgramError

Network = Callable[[np.ndarray, np.ndarray, "np.ndarray | None"], np.ndarray]
Decoder = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
Draw = Callable[[np.ndarray, int, "tuple[int, ...]"], np.ndarray]


def run(
    program: Program,
    network: Network | None,
    latents: np.ndarray,
    *,
    seeds: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    null_class: int | None = None,
    guidance_scale: float | None = None,
    draw: Draw | None = None,
    decoder: Decoder | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Run `program` on unit normal `latents` [N, C, H, W] (or any [N, ...]) and return slot 0, or what `decoder` makes of it.

    `network(sample [M, C, H, W], timestep [M], classes [M] int64 or None)` → [M, C, H, W]; M = 2N in a guided row, the first N
    with `classes` [N], the others with `null_class`. `guidance_scale` replaces the program's own. `draw(seeds [N] uint64, index,
    shape [N, C, H, W])` returns unit normal noise, index 2 r + 1 before and 2 r + 2 after row r; it is called only where a row
    adds noise, and is the library's own noise unless given. All arithmetic around the network is done in `dtype`. Raises
    ProgramError when guidance lacks classes, or a program without rows lacks a decoder.
    """
    dtype = np.dtype(dtype).type
    if guidance_scale is not None:
        program = program.with_guidance(guidance_scale)
    x = np.asarray(latents, dtype) * dtype(program.init_scale)
    labels = None if classes is None else np.asarray(classes, np.int64)
    if program.rows and network is None:
        raise ProgramError("a program with rows needs a network")
    if not program.rows and decoder is None:
        raise ProgramError("a program without rows needs a decoder")
    seeds = np.arange(len(x), dtype=np.uint64) if seeds is None else np.asarray(seeds, np.uint64)
    draw = draw or _library_noise

    slots = np.zeros((program.slots, *x.shape), dtype)
    slots[0] = x
    for index, (row, weight) in enumerate(zip(program.rows, program.weights, strict=True)):
        if row.before is not None:
            slots = _combine(row.before, slots, dtype)
        slots += _noise(row.before_noise, draw, seeds, 2 * index + 1, slots, dtype)
        output = _evaluate(network, row, weight, slots[0], labels, null_class, dtype)
        denoised = dtype(row.c_skip) * slots[0] + dtype(row.c_out) * output
        if row.clip is not None:
            denoised = np.clip(denoised, dtype(row.clip[0]), dtype(row.clip[1]))
        slots = _combine(row.after, np.concatenate([slots, denoised[None]]), dtype)
        slots += _noise(row.after_noise, draw, seeds, 2 * index + 2, slots, dtype)
    return slots[0] if decoder is None else decoder(slots[0], labels)


def _combine(matrix: Matrix, inputs: np.ndarray, dtype: Any) -> np.ndarray:
    return np.tensordot(np.array(matrix, dtype), inputs, axes=1)


def _noise(
    scales: tuple[float, ...] | None, draw: Draw, seeds: np.ndarray, index: int, slots: np.ndarray, dtype: Any
) -> np.ndarray:
    if scales is None or not any(scales):
        return np.zeros((), dtype)
    noise = np.asarray(draw(seeds, index, slots.shape[1:]), dtype)
    return np.multiply.outer(np.array(scales, dtype), noise)


def _evaluate(
    network: Any, row: Row, weight: float, x: np.ndarray, labels: np.ndarray | None, null_class: int | None, dtype: Any
) -> np.ndarray:
    sample = dtype(row.c_in) * x
    if weight == 1.0:
        return np.asarray(network(sample, np.full(len(x), row.timestep, dtype), labels), dtype)
    if labels is None or null_class is None:
        raise ProgramError("guidance needs a class for each sample and the null class: give both, or a guidance scale of 1")
    both = np.concatenate([labels, np.full(len(x), null_class, np.int64)])
    output = np.asarray(network(np.concatenate([sample, sample]), np.full(2 * len(x), row.timestep, dtype), both), dtype)
    conditional, unconditional = output[: len(x)], output[len(x) :]
    return unconditional + dtype(weight) * (conditional - unconditional)


def _library_noise(seeds: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
    from aigc_edge.ops import randn

    noise = np.empty((shape[0], int(np.prod(shape[1:]))))  # float64: the definition, not its rounding
    randn.reference(seeds, index, noise)
    return noise.reshape(shape)
