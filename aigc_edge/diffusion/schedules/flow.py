"""The schedule of flow-matching networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules.base import SCHEDULES, Level, Schedule, falling
from aigc_edge.diffusion.schedules.spacing import beta_quantile


@SCHEDULES.register("flow")
@dataclass(frozen=True, kw_only=True)
class FlowSchedule(Schedule):
    """x = (1 − t) · x0 + t · eps from t = 1 to 0, shifted to noisier levels.

    t ← shift · t / (1 + (shift − 1) t) (Esser et al. 2024, equation 23). `spacing` is linspace (equal steps of t) or beta
    (quantiles of Beta(0.6, 0.6), dense at both ends; Lee et al. 2024). The timestep is t · `timestep_scale`, which is 1000 for
    networks trained on timesteps 0 … 1000.
    """

    shift: float = 1.0
    timestep_scale: float = 1.0
    spacing: str = "linspace"

    def levels(self, steps: int) -> list[Level]:
        checks.choice(self.spacing, "the spacing of a flow schedule", "linspace", "beta")
        time = np.linspace(1, 0, steps + 1)
        if self.spacing == "beta":
            time = beta_quantile(time)
        shift = checks.number(self.shift, "shift", 1e-3, 1e3)
        time = shift * time / (1 - time + shift * time)  # exactly 1 at 1
        return falling([Level(1 - t, t) for t in time.tolist()])

    def timestep(self, level: Level) -> float:
        return self.timestep_scale * level.sigma / (level.alpha + level.sigma)

    def initial_scale(self, first: Level) -> float:
        return math.hypot(first.alpha, first.sigma)
