"""Averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from aigc_edge.models.base import Family


class Ema:
    """Exponential moving average of a family's floating-point state, with a half-life counted in images.

    At the start the half-life is `rampup` times the images seen so far (as EDM does), so that the random initial weights are
    forgotten quickly.
    """

    def __init__(self, family: Family, half_life: float, rampup: float) -> None:
        self.half_life = half_life
        self.rampup = rampup
        self.family: Family = copy.deepcopy(family).eval().requires_grad_(False)

    def decay(self, images_seen: int, batch: int) -> float:
        """The weight of the old average when a batch that ends at `images_seen` images is added."""
        half_life = min(self.half_life, images_seen * self.rampup)
        return 0.5 ** (batch / max(half_life, 1e-8))

    @torch.no_grad()
    def update(self, family: Family, images_seen: int, batch: int) -> None:
        """Move the average towards `family`."""
        average: list[Tensor] = []
        current: list[Tensor] = []
        for mine, theirs in zip(self.family.state_dict().values(), family.state_dict().values(), strict=True):
            if mine.is_floating_point():
                average.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(average, current, 1 - self.decay(images_seen, batch))
