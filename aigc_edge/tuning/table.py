"""A deterministic sampler in its most general linear form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_edge.errors import ProgramError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CoefficientTable:
    """A non-stationary solver (arXiv 2403.01329, theorem 3.2) of K evaluations, written for the bare network F.

        input of evaluation i   z_i = weights[i] · [latents, F_0 … F_(i−1)], evaluated at the log noise levels[i]
        result                  weights[K] · [latents, F_0 … F_(K−1)]

    `levels` [K] are ln(sigma / alpha), `weights` [K + 1, K + 1] is lower triangular; both float64. Every deterministic program
    without clipping has such a table. Raises ProgramError for other shapes.
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
