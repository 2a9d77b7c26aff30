"""How a program's noise draws are composed of those of the scheduler that it was imported from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aigc_edge.diffusion.reference import NoiseFunction


class NoiseDraw(NamedTuple):
    """A draw of the program (see `Program.draws`) as a sum of the scheduler's own unit normal draws: (index, weight) each."""

    draw: int
    weights: tuple[tuple[int, float], ...]


def noise_function(draws: Sequence[NoiseDraw], noise: Sequence[np.ndarray]) -> NoiseFunction:
    """The `draw` of `reference.run` that composes the program's draws from the scheduler's own `noise`."""
    weights = {one.draw: one.weights for one in draws}

    def draw(seeds: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
        total = np.zeros(shape)
        for own, weight in weights[index]:
            total += weight * noise[own]
        return total

    return draw
