"""Variance-preserving schedules: networks trained on discrete timesteps, with noise levels defined by betas."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules.base import (
    SCHEDULES,
    Level,
    Schedule,
    ends_at_zero,
    falling,
    log_noise,
    spaced_sigmas,
    to_clean,
)
from aigc_edge.diffusion.schedules.spacing import SIGMA_SPACINGS, TIME_SPACINGS, linspace, resampled
from aigc_edge.errors import ProgramError


@functools.lru_cache(maxsize=16)
def vp_log_sigmas(betas: str, beta_start: float, beta_end: float, train_steps: int) -> np.ndarray:
    """ln sqrt((1 − ᾱ) / ᾱ) at each training timestep, [train_steps] float64 rising; ᾱ is alphas_cumprod (Ho et al. 2020)."""
    if betas == "linear":
        beta = np.linspace(beta_start, beta_end, train_steps)
    elif betas == "scaled_linear":  # latent diffusion
        beta = np.linspace(beta_start**0.5, beta_end**0.5, train_steps) ** 2
    elif betas == "cosine":  # Nichol and Dhariwal 2021, equation 17
        signal = np.cos((np.arange(train_steps + 1) / train_steps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    else:
        raise ProgramError(f"betas must be one of linear, scaled_linear, cosine, not {checks.show(betas)}")
    product = np.cumprod(1 - beta)
    with np.errstate(all="ignore"):
        log_sigmas = np.log((1 - product) / product) / 2
    if not (np.isfinite(log_sigmas).all() and (np.diff(log_sigmas) > 0).all()):
        raise ProgramError(
            f"betas from {beta_start:g} to {beta_end:g} over {train_steps} timesteps leave no signal or add no noise"
        )
    log_sigmas.flags.writeable = False  # cached
    return log_sigmas


@SCHEDULES.register("vp")
@dataclass(frozen=True, kw_only=True)
class VpSchedule(Schedule):
    """A variance-preserving network with `train_steps` timesteps, sampled as x = x0 + sigma · eps (k-diffusion's coordinates).

    `betas` is linear, scaled_linear or cosine (which ignores `beta_start` and `beta_end`). `spacing` is linspace, leading,
    trailing or beta over timesteps, or karras, exponential or polynomial over sigmas; timesteps are interpolated in ln(sigma).
    `final_sigma` "zero" ends at the clean sample, "sigma_min" at the first training timestep. Instead of a spacing the noisy
    levels may be given: as many `timesteps` as steps, or any number of `sigmas`, which are interpolated in ln(sigma) to the
    number of steps (Sabour et al. 2024, Align Your Steps); "sigma_min" then ends at the last of them.

    `zero_terminal_snr` is for networks trained with betas rescaled so that the last timestep is pure noise (Lin et al. 2023,
    algorithm 1): the sample is then alpha · x0 + sigma · eps with alpha² + sigma² = 1, where that level is finite. Spacings over
    sigmas, infinite there in the other coordinates, raise ProgramError, as does a network that predicts epsilon.
    """

    betas: str
    beta_start: float = 1e-4
    beta_end: float = 0.02
    train_steps: int = 1000
    spacing: str = "leading"
    steps_offset: int = 0
    final_sigma: str = "zero"
    rho: float = 7.0
    zero_terminal_snr: bool = False
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None

    @functools.cached_property
    def _log_sigmas(self) -> np.ndarray:
        checks.integer(self.train_steps, "train_steps", 2, 1_000_000)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ProgramError(f"betas must fulfil 0 < beta_start <= beta_end < 1, not {self.beta_start:g} and {self.beta_end:g}")
        return vp_log_sigmas(self.betas, self.beta_start, self.beta_end, self.train_steps)

    def levels(self, steps: int) -> list[Level]:
        zero = ends_at_zero(self.final_sigma)
        low, high = np.exp(self._log_sigmas[[0, -1]]).tolist()
        if self.timesteps is not None or self.sigmas is not None:
            return self._listed(steps if zero else steps + 1, [Level(1.0, 0.0)] if zero else [])
        if self.spacing in SIGMA_SPACINGS:
            self._refuse_infinity()
            return to_clean(spaced_sigmas(self.spacing, low, high, steps, self.rho, zero))
        if self.spacing not in TIME_SPACINGS:
            known = ", ".join([*TIME_SPACINGS, *SIGMA_SPACINGS])
            raise ProgramError(f"unknown spacing {checks.show(self.spacing)}: choose one of {known}")
        if self.spacing == "linspace" and not zero:  # it ends at the first timestep itself
            return self._at(linspace(self.train_steps, steps + 1, 0))
        times = TIME_SPACINGS[self.spacing](self.train_steps, steps, self.steps_offset)
        if times[0] > self.train_steps - 1 or times[-1] < 0:
            reach = f"timesteps {times[-1]:g} … {times[0]:g}, the network knows 0 … {self.train_steps - 1}"
            visit = f"{steps} steps with spacing {self.spacing} and steps_offset {self.steps_offset} visit {reach}"
            raise ProgramError(f"{visit}: take fewer steps, another spacing or another steps_offset")
        last = [Level(1.0, 0.0)] if zero else self._at(np.zeros(1))
        return falling([*self._at(times), *last])

    def _refuse_infinity(self) -> None:
        if self.zero_terminal_snr:
            known = ", ".join(TIME_SPACINGS)
            raise ProgramError(f"with zero_terminal_snr sigma begins at infinity: choose a spacing of timesteps, one of {known}")

    def _listed(self, points: int, last: list[Level]) -> list[Level]:
        if self.timesteps is None:
            self._refuse_infinity()
            return falling([*(Level(1.0, s) for s in resampled(self.sigmas or (), points).tolist()), *last])
        if self.sigmas is not None:
            raise ProgramError("a schedule takes timesteps or sigmas, not both")
        top = self.train_steps - 1
        if len(self.timesteps) != points or not all(0 <= t <= top for t in self.timesteps):
            raise ProgramError(f"timesteps must be {points} numbers within 0 … {top}, not {checks.show(self.timesteps)}")
        return falling([*self._at(np.array(self.timesteps)), *last])

    def _at(self, times: np.ndarray) -> list[Level]:
        if self.zero_terminal_snr:
            angles = np.interp(times, np.arange(self.train_steps), self._angles)
            return [Level(0.0 if a == np.pi / 2 else math.cos(a), math.sin(a)) for a in angles.tolist()]
        return [Level(1.0, s) for s in np.exp(np.interp(times, np.arange(self.train_steps), self._log_sigmas)).tolist()]

    @functools.cached_property
    def _angles(self) -> np.ndarray:
        """arctan(sigma / alpha) at each training timestep, after the rescaling."""
        alphas = np.cos(np.arctan(np.exp(self._log_sigmas)))
        return np.arccos((alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1])))

    def timestep(self, level: Level) -> float:
        if self.zero_terminal_snr:
            return float(np.interp(math.atan2(level.sigma, level.alpha), self._angles, np.arange(self.train_steps)))
        return float(np.interp(log_noise(level), self._log_sigmas, np.arange(self.train_steps)))

    def initial_scale(self, first: Level) -> float:
        return math.hypot(first.alpha, first.sigma)  # such a network was trained on data of about unit variance
