"""From a table back to the rows of a program, with the fewest slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aigc_edge.diffusion import Program, Row
from aigc_edge.diffusion.program import MAX_SLOTS
from aigc_edge.errors import ProgramError
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import Array, Table

# Before evaluation b of K the state has to tell K + 1 - b sums apart that are made of b + 1 known arrays: K // 2 + 1 slots.
MAX_NFE = 2 * MAX_SLOTS - 1
_RANK = 1e-10


def roll(table: Table, path: NoisePath, name: str, guidance_scale: float, meta: Mapping[str, Any] | None = None) -> Program:
    """The program that computes `table`; its D is the denoised sample at the level that the network is told.

    Raises ProgramError for a table whose state does not fit the slots of a program (above 15 evaluations).
    """
    count = table.nfe
    told = [path.coefficients(level) for level in table.levels]
    # Units of the columns: with F in units of c_out no slot holds a difference of nearly equal things.
    units = np.array([1.0, *(c.c_out for c in told)])
    scaled = table.weights / units
    inputs = [scaled[i] / told[i].c_in for i in range(count)] + [scaled[count]]
    states = [_state(inputs[b], scaled[b + 1 :, : b + 1]) for b in range(count)] + [inputs[count][None]]
    slots = max(len(state) for state in states)
    if slots > MAX_SLOTS:
        raise ProgramError(f"a table of {count} evaluations needs {slots} slots, a program has up to {MAX_SLOTS}: tune fewer")
    rows = []
    for index, (level, c) in enumerate(zip(table.levels, told, strict=True)):
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
    """What the slots hold before an evaluation: its input, then an orthonormal basis of what the later sums need besides."""
    known = future.shape[1]
    unit = x[:known] / np.linalg.norm(x[:known])
    needed = future - np.outer(future @ unit, unit)
    size = np.linalg.norm(future, axis=1, keepdims=True)
    _, strength, basis = np.linalg.svd(needed / np.where(size > 0, size, 1.0), full_matrices=False)
    kept = basis[strength > _RANK]
    state = np.zeros((1 + len(kept), len(x)))
    state[0], state[1:, :known] = x, kept
    return state
