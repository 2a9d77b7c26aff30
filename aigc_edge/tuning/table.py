"""A deterministic sampler in its most general linear form, and the way from a program to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import Program, Row
from aigc_edge.errors import ProgramError
from aigc_edge.tuning.path import NoisePath

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A non-stationary solver (arXiv 2403.01329, theorem 3.2) of K evaluations, written for the bare network F.

        input of evaluation i   z_i = weights[i] · [latents, F_0 … F_(i-1)], told the log noise levels[i]
        result                  weights[K] · [latents, F_0 … F_(K-1)]

    `levels` [K], `weights` [K + 1, K + 1] float64, lower triangular. Every deterministic program without clipping is one.
    """

    levels: Array
    weights: Array

    def __post_init__(self) -> None:
        count = len(self.levels)
        if self.weights.shape != (count + 1, count + 1) or np.triu(self.weights, 1).any():
            raise ProgramError(f"the weights of {count} evaluations must be lower triangular, of {count + 1} lines and columns")

    @property
    def nfe(self) -> int:
        """Number of network evaluations."""
        return len(self.levels)

    @property
    def parameters(self) -> int:
        """How many numbers are tuned."""
        count = self.nfe
        return count + (count + 1) * (count + 2) // 2


def unroll(program: Program, path: NoisePath) -> Table:
    """The table of `program`, whose rows are told levels of `path`; raises ProgramError for noise, clipping and no rows."""
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
    return Table(np.array([path.of_row(row) for row in program.rows]), weights)
