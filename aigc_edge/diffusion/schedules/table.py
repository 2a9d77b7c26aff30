"""Schedules whose noise levels are listed."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from aigc_edge.diffusion.schedules.base import SCHEDULES, Level, Schedule, falling, log_noise, to_clean
from aigc_edge.diffusion.schedules.spacing import resampled
from aigc_edge.errors import ProgramError


@SCHEDULES.register("table")
@dataclass(frozen=True, kw_only=True)
class TableSchedule(Schedule):
    """Explicit noise levels: falling sigmas [steps + 1] and alphas [steps + 1] (1 by default).

    `timesteps` [steps + 1] are the network's timesteps at these levels (the last may be omitted if the network is not evaluated
    there), interpolated over sigma / (alpha + sigma) between them; ln(sigma / alpha) / 4 by default. The sample starts with
    standard deviation `init_scale`, by default sigmas[0]. With `resample` any number of sigmas may be given, without alphas and
    timesteps: the positive ones are interpolated in ln(sigma) to the number of steps (Sabour et al. 2024, Align Your Steps).
    """

    sigmas: tuple[float, ...]
    alphas: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None
    init_scale: float | None = None
    resample: bool = False

    def levels(self, steps: int) -> list[Level]:
        if self.resample:
            return self._resampled(steps)
        if len(self.sigmas) != steps + 1:
            raise ProgramError(f"a schedule of {len(self.sigmas)} sigmas has {max(len(self.sigmas) - 1, 0)} steps, not {steps}")
        if self.alphas is not None and len(self.alphas) != steps + 1:
            raise ProgramError(f"alphas must be as many as sigmas ({steps + 1}), not {len(self.alphas)}")
        if self.timesteps is not None and len(self.timesteps) not in (steps, steps + 1):
            raise ProgramError(f"timesteps must be {steps} or {steps + 1}, one for each noise level, not {len(self.timesteps)}")
        return falling([Level(a, s) for a, s in zip(self.alphas or (1.0,) * (steps + 1), self.sigmas, strict=True)])

    def _resampled(self, steps: int) -> list[Level]:
        if self.alphas is not None or self.timesteps is not None:
            raise ProgramError("resample works on sigmas alone: leave alphas and timesteps out")
        zero = self.sigmas[-1:] == (0.0,)
        noisy = resampled(self.sigmas[:-1] if zero else self.sigmas, steps if zero else steps + 1)
        return to_clean(np.append(noisy, 0.0) if zero else noisy)

    def timestep(self, level: Level) -> float:
        if self.timesteps is None:
            return log_noise(level) / 4
        shares, times = self._times
        share = level.sigma / (level.alpha + level.sigma)
        if share < shares[0]:
            raise ProgramError("timesteps must hold one for the last sigma too: this solver evaluates the network there")
        return float(np.interp(share, shares, times))

    @functools.cached_property
    def _times(self) -> tuple[np.ndarray, np.ndarray]:
        times = np.array(self.timesteps)
        sigmas = np.array(self.sigmas[: len(times)])
        alphas = np.array(self.alphas[: len(times)]) if self.alphas else 1.0
        return (sigmas / (alphas + sigmas))[::-1], times[::-1]

    def initial_scale(self, first: Level) -> float:
        return first.sigma if self.init_scale is None else self.init_scale
