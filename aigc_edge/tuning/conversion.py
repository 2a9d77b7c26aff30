"""Conversion between the rows of a program and a table of coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aigc_edge.diffusion import Program, Row
from aigc_edge.diffusion.program import MAX_SLOTS
from aigc_edge.errors import ProgramError
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import Array, CoefficientTable

# Before evaluation b of K the state must determine K + 1 − b sums of b + 1 known arrays, which takes K // 2 + 1 slots.
MAX_NFE = 2 * MAX_SLOTS - 1
_RANK = 1e-10


def from_program(program: Program, path: NoisePath) -> CoefficientTable:
    """The table of `program`; raises ProgramError for noise, clipping, no rows, and levels that are not on `path`."""
    count = program.nfe

    def plain(row: Row) -> bool:
        return not (any(row.after_noise or ()) or any(row.before_noise or ()) or row.clip or row.threshold)

    if not count or not all(map(plain, program.rows)):
        raise ProgramError(f"the program {program.name!r} has no rows, or adds noise or clips: such a program cannot be tuned")
    slots = np.zeros((program.slots, count + 1))
    slots[0, 0] = program.init_scale
    weights = np.zeros((count + 1, count + 1))
    for index, row in enumerate(program.rows):
        if row.before is not None:
            slots = np.array(row.before) @ slots
        weights[index] = row.c_in * slots[0]
        denoised = row.c_skip * slots[0]
        denoised[index + 1] += row.c_out
        slots = np.array(row.after) @ np.vstack([slots, denoised])
        slots[:, index + 1] += row.after_output or 0.0
    weights[count] = slots[0]
    return CoefficientTable(np.array([path.of_row(row) for row in program.rows]), weights)


def to_program(
    table: CoefficientTable, path: NoisePath, name: str, guidance_scale: float, meta: Mapping[str, Any] | None = None
) -> Program:
    """The program of `table`, with the fewest slots; its D is the denoised sample at the row's noise level.

    Raises ProgramError for a table whose state does not fit the slots of a program (above 15 evaluations).
    """
    count = table.nfe
    coefficients = [path.coefficients(level) for level in table.levels]
    # Units of the columns: with F in units of c_out no slot holds a difference of nearly equal values.
    units = np.array([1.0, *(c.c_out for c in coefficients)])
    scaled = table.weights / units
    inputs = [scaled[i] / coefficients[i].c_in for i in range(count)] + [scaled[count]]
    states = [_state(inputs[b], scaled[b + 1 :, : b + 1]) for b in range(count)] + [inputs[count][None]]
    slots = max(len(state) for state in states)
    if slots > MAX_SLOTS:
        raise ProgramError(f"a table of {count} evaluations needs {slots} slots, a program has up to {MAX_SLOTS}: tune fewer")
    rows = []
    for index, (level, c) in enumerate(zip(table.levels, coefficients, strict=True)):
        after = np.zeros((slots, slots + 1))
        old, new = states[index], states[index + 1]
        pull = new[:, index + 1]  # in units of c_out F = D - c_skip x
        kept = np.linalg.lstsq(old[:, : index + 1].T, new[:, : index + 1].T, rcond=None)[0].T
        after[: len(new), : len(old)] = kept
        after[: len(new), 0] -= pull * c.c_skip
        after[: len(new), slots] = pull
        row = Row(
            sigma=path.level(level).sigma,
            level=(path.level(level).alpha, path.level(level).sigma),
            timestep=path.timestep(level),
            c_in=c.c_in,
            c_skip=c.c_skip,
            c_out=c.c_out,
            after=tuple(tuple(line) for line in after.tolist()),
        )
        rows.append(row)
    return Program(name, slots, float(inputs[0][0]), tuple(rows), guidance_scale, meta=dict(meta or {}))


def _state(x: Array, future: Array) -> Array:
    """The slots before an evaluation: its input, then an orthonormal basis of what the later sums need in addition."""
    known = future.shape[1]
    unit = x[:known] / np.linalg.norm(x[:known])
    needed = future - np.outer(future @ unit, unit)
    size = np.linalg.norm(future, axis=1, keepdims=True)
    _, strength, basis = np.linalg.svd(needed / np.where(size > 0, size, 1.0), full_matrices=False)
    kept = basis[strength > _RANK]
    state = np.zeros((1 + len(kept), len(x)))
    state[0], state[1:, :known] = x, kept
    return state
