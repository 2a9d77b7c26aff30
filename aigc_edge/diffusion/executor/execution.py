"""Runs a program around any network: one kernel between two evaluations, on NumPy arrays or torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aigc_edge._core import Rows
from aigc_edge.diffusion import checks, noise
from aigc_edge.diffusion.executor.arrays import DTYPES, Arrays, arrays_of
from aigc_edge.diffusion.executor.networks import as_network, dtype_of
from aigc_edge.diffusion.program import Program
from aigc_edge.errors import AigcEdgeError, ProgramError

Conditions = Mapping[str, Any]


class Execution:
    """A program prepared for one batch: its steps (`_core.Rows`, which the C API runs too) and every buffer.

    `arrays` is the array library of the latents and `shape` [N, ...] theirs. After `start`, `run` may be called again and again;
    its result is in `sample` [N, ...], float32. With `standing`, conditions, mask and known are copies in buffers of its own,
    which `give` and `start` fill anew. See `aigc_edge.diffusion.sample` for the other arguments.
    """

    def __init__(
        self,
        program: Program,
        arrays: Arrays,
        shape: tuple[int, ...],
        *,
        dtype: str = "float32",
        channels_last: bool = False,
        conditions: Conditions | None = None,
        negative: Conditions | None = None,
        mask: Any = None,
        known: Any = None,
        standing: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ProgramError(f"the network's dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}")
        if channels_last and len(shape) != 4:
            raise ProgramError(f"channels last is for latents [N, C, H, W], these have the shape {list(shape)}")
        self.program, self.arrays, self.shape, self.dtype = program, arrays, shape, dtype
        self.channels_last = channels_last
        self._count, self._elements = shape[0], int(np.prod(shape[1:]))
        self._planar = (self._count, self._elements)
        self._rows = Rows(program.to_json() | {"meta": {}})
        self._halves = self._rows.halves
        most = max(self._halves)
        self.largest_batch = most * self._count  # of the network
        self.slots = arrays.empty((program.slots, *self._planar))
        self.sample = arrays.planes(self.slots[0], shape, False)
        self.seeds = arrays.give(np.zeros(self._count, np.uint64))
        self.flags = arrays.give(np.zeros(self._count, np.int32))
        net_input, whole = self._network_input(most)
        self._inputs = {halves: whole[: halves * self._count] for halves in (1, most)}
        times = np.array([row.timestep for row in program.rows], np.float32)
        self.timesteps = arrays.give(np.repeat(times[:, None], most * self._count, 1))
        self._conditions = _both(arrays, conditions, negative, self._count, most, standing)
        self._mask, self._known = self._plane(mask, "mask"), self._plane(known, "known")
        if standing and mask is not None and known is not None:
            self._mask, self._known = arrays.copy(self._mask), arrays.copy(self._known)
        self._check_mask()
        self._eps = None if mask is None else arrays.empty(self._planar)
        self._noise: Any = None  # [draws, N, E]: what the rows add, where the kernels do not draw it
        self._rows.bind(
            slots=self.slots,
            net_input=net_input,
            seeds=self.seeds,
            nonfinite=self.flags,
            mask=self._mask,
            known=self._known,
            known_noise=self._eps,
            channels=shape[1] if channels_last else 0,
        )

    def _network_input(self, halves: int) -> tuple[Any, Any]:
        """The network's input, `halves` batches, as the steps and as the network see it."""
        count, rest = halves * self._count, self.shape[1:]
        if not self.channels_last:
            memory = self.arrays.empty((count, *rest), self.dtype)
            return self.arrays.planes(memory, (halves, *self._planar), False), memory
        memory = self.arrays.empty((count, *rest[1:], rest[0]), self.dtype)
        seen = memory.transpose(0, 3, 1, 2) if isinstance(memory, np.ndarray) else memory.permute(0, 3, 1, 2)
        return self.arrays.planes(memory, (halves, *self._planar), False), seen

    def _plane(self, value: Any, what: str) -> Any:
        if value is None:
            return None
        if not self.arrays.has(value) or tuple(value.shape) != self.shape:
            raise ProgramError(f"{what} must be {self.arrays.kind} {list(self.shape)} like the latents")
        return self.arrays.planes(self.arrays.cast(value, "float32", False), self._planar, False)

    def _check_mask(self) -> None:
        if (self._mask is None) != (self._known is None):
            raise ProgramError("a mask and what is known must be given together")
        if self._mask is not None and any(row.level is None for row in self.program.rows):
            raise ProgramError(f"program {self.program.name!r} does not say the level of its rows, which a mask needs")

    def give(self, conditions: Conditions | None, negative: Conditions | None, mask: Any = None, known: Any = None) -> None:
        """Put other values into the standing buffers; None leaves what is there. Raises ProgramError for what does not fit."""
        for what, given, part in (
            ("conditions", conditions, slice(self._count)),
            ("negative", negative, slice(self._count, None)),
        ):
            plain, both = self._conditions[1], self._conditions.get(2)
            if given is None or (both is None and part.stop is None):
                continue
            if set(given) != set(plain):
                raise ProgramError(
                    f"{what} are {checks.show(sorted(given))}: the loop was prepared for {checks.show(sorted(plain))}"
                )
            for name, value in given.items():
                _fits(self.arrays, name, value, self._count, like=plain[name])
                if part.start is None:
                    plain[name][...] = self.arrays.expand(value, self._count)
                if both is not None:
                    both[name][part] = self.arrays.expand(value, self._count)
        for what, value, buffer in (("mask", mask, self._mask), ("known", known, self._known)):
            if value is not None and buffer is None:
                raise ProgramError(
                    f"{what} was given to a loop that was prepared without: prepare one with a mask and what is known"
                )
            if value is not None:
                buffer[...] = self._plane(value, what)

    def start(
        self, latents: Any, seeds: np.ndarray | None = None, source: str | Any = noise.PHILOX, known_noise: Any = None
    ) -> None:
        """Put latents [N, ...], seeds [N] uint64 and the noise that rows add into the buffers of the next runs.

        `source` names where noise comes from, or is what the rows add, [draws, N, ...]; all of it is drawn here.
        """
        arrays = self.arrays
        if not arrays.has(latents) or tuple(latents.shape) != self.shape:
            raise ProgramError(f"latents must be {arrays.kind} {list(self.shape)}")
        seeds = np.arange(self._count, dtype=np.uint64) if seeds is None else np.asarray(seeds, np.uint64)
        if seeds.shape != (self._count,):
            raise ProgramError(f"seeds must hold one whole number for each of the {self._count} samples, not {list(seeds.shape)}")
        self.slots[1:] = 0
        self.slots[0] = arrays.planes(arrays.cast(latents, "float32", False), self._planar, False)
        self.seeds[...] = arrays.give(seeds)
        self.flags[...] = 0
        if self._eps is not None:
            own = self._plane(known_noise, "known_noise")
            self._eps[...] = self.slots[0] if own is None else own
        values = self._draws(source, seeds)
        if values and self._noise is None:
            self._noise = arrays.empty((len(values), *self._planar))  # stays: a captured graph reads it again
        for buffer, value in zip(self._noise if values else (), values, strict=True):
            buffer[...] = arrays.planes(value, self._planar, False)
        self._rows.noise = self._noise if values else None

    def _draws(self, source: str | Any, seeds: np.ndarray) -> list[Any]:
        """What the rows add, each [N, ...]; none where the kernels draw it."""
        if isinstance(source, str):
            if source == noise.PHILOX:
                return []
            drawn = noise.draw(source, seeds, self.shape[1:], 1 + len(self.program.draws))
            return [self.arrays.give(values) for values in drawn[1:]]  # the first are latents
        wanted = (len(self.program.draws), *self.shape)
        if not self.arrays.has(source) or tuple(source.shape) != wanted:
            raise ProgramError(f"noise must be {self.arrays.kind} {list(wanted)}: what the rows of {self.program.name!r} add")
        return [self.arrays.cast(values, "float32", False) for values in source]

    def run(self, network: Callable[..., Any], progress: Callable[[int, int], None] | None = None) -> None:
        """Evaluate the rows; in host memory a value that is not finite stops them (elsewhere call `check` afterwards)."""
        count = len(self._halves)
        self._rows.run(0)
        for row, halves in enumerate(self._halves):
            sample = self._inputs[halves]
            output = network(sample, self.timesteps[row, : len(sample)], **self._conditions[halves])
            self._rows.run(row + 1, self._output(output, halves))
            if self.arrays.on_host:
                self.check()
            if progress is not None:
                progress(row, count)

    def _output(self, output: Any, halves: int) -> Any:
        output = getattr(output, "sample", output)  # what diffusers' networks return
        wanted = (halves * self._count, *self.shape[1:])
        if not self.arrays.has(output) or tuple(output.shape) != wanted:
            shape = list(getattr(output, "shape", ()))
            raise ProgramError(
                f"the network returned {type(output).__name__} {shape}: it must be {self.arrays.kind} {list(wanted)}"
            )
        plain = self.arrays.cast(output, self.dtype, self.channels_last)
        return self.arrays.planes(plain, (halves, *self._planar), self.channels_last)

    def check(self) -> None:
        """Raise AigcEdgeError with the row and sample of a value that is not finite."""
        marks = self.arrays.host(self.flags)
        if marks.any():
            first = int(marks[marks > 0].min())
            sample = int(np.flatnonzero(marks == first)[0])
            where = f"row {first - 1} of {len(self.program.rows)} for sample {sample}"
            raise AigcEdgeError(
                f"the network returned a value that is not finite in {where}: try another dtype, a lower guidance scale, or "
                "other latents"
            )


def _fits(arrays: Arrays, name: str, value: Any, count: int, like: Any = None) -> None:
    if not arrays.has(value) or value.ndim < 1 or len(value) not in (1, count):
        raise ProgramError(f"condition {name!r} must be {arrays.kind} whose first size is {count} or 1")
    if like is not None and (tuple(value.shape[1:]) != tuple(like.shape[1:]) or value.dtype != like.dtype):
        raise ProgramError(
            f"condition {name!r} is {value.dtype} {list(value.shape)}: the loop was prepared for {like.dtype} {list(like.shape)}"
        )


def _both(
    arrays: Arrays, conditions: Conditions | None, negative: Conditions | None, count: int, most: int, copied: bool
) -> dict[int, dict[str, Any]]:
    """The network's keywords for a plain and for a doubled batch; `copied`: the plain ones too are memory of their own."""
    given, other = dict(conditions or {}), dict(negative or {})
    if most == 2 and (conditions is None or negative is None):
        raise ProgramError("guidance needs conditions and negative conditions (both may be empty), or a guidance scale of 1")
    if most == 2 and set(given) != set(other):
        raise ProgramError(f"the conditions are {checks.show(sorted(given))}, the negative ones {checks.show(sorted(other))}")
    for name, value in [*given.items(), *other.items()]:
        _fits(arrays, name, value, count)
    plain = {name: arrays.expand(value, count) for name, value in given.items()}
    plain = {name: arrays.copy(value) for name, value in plain.items()} if copied else plain
    if most == 1:
        return {1: plain}
    return {1: plain, 2: {name: arrays.join([plain[name], arrays.expand(other[name], count)]) for name in plain}}


def prepare(program: Program, network: Any, latents: Any, *, dtype: str | None, **options: Any) -> tuple[Execution, Any]:
    """The execution for latents like these, and the network as it is to be called."""
    arrays = arrays_of(latents)
    network = as_network(network, latents)
    if dtype is None:
        own = dtype_of(network) or arrays.dtype_of(latents)
        dtype = own if own in DTYPES else "float32"  # what is asked for by name is checked, not replaced
    if latents.ndim < 2 or not program.rows:
        raise ProgramError(
            f"latents of shape {list(latents.shape)} and a program of {len(program.rows)} rows: at least [N, ...] and one row "
            "are needed (a generator of one evaluation is called as it is)"
        )
    return Execution(program, arrays, tuple(latents.shape), dtype=dtype, **options), network
