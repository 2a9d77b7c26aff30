"""Noise schedules: from a number of steps to falling noise levels, and from a noise level to the network's time input."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.spacing import SIGMA_SPACINGS, TIME_SPACINGS, linspace
from aigc_edge.errors import ProgramError
from aigc_edge.registry import Registry


class Level(NamedTuple):
    """A noise level: x = alpha · x0 + sigma · eps."""

    alpha: float
    sigma: float


class Schedule(ABC):
    """How a network was trained on noise levels, and which of them a sampler visits; its keyword parameters are its options."""

    @abstractmethod
    def levels(self, steps: int) -> list[Level]:
        """The `steps` + 1 noise levels that the steps lie between, the noisiest first."""

    @abstractmethod
    def timestep(self, level: Level) -> float:
        """The network's time input at a noise level with sigma > 0."""

    @abstractmethod
    def initial_scale(self, first: Level) -> float:
        """Standard deviation of the sample at the first level."""


SCHEDULES: Registry[type[Schedule]] = Registry("schedule kind", "aigc_edge.diffusion")


def log_noise(level: Level) -> float:
    """ln(sigma / alpha), minus the half-log-SNR; raises ProgramError where there is no image left."""
    if level.alpha == 0:
        raise ProgramError(
            "a noise level with alpha 0 has no ln(sigma / alpha) to tell the network: give timesteps or begin later"
        )
    return math.log(level.sigma / level.alpha)


def falling(levels: Sequence[Level]) -> list[Level]:
    """The levels as a list; raises ProgramError unless sigma falls to 0 or above while alpha never falls."""
    for index, (here, there) in enumerate(pairwise(levels)):
        if not (here.sigma > there.sigma >= 0 and 0 <= here.alpha <= there.alpha and there.alpha > 0):
            change = f"alpha {here.alpha:.6g}, sigma {here.sigma:.6g} to alpha {there.alpha:.6g}, sigma {there.sigma:.6g}"
            advice = "take fewer steps or other noise levels (spacing, final_sigma)"
            raise ProgramError(f"noise must fall at every step, but step {index} goes from {change}: {advice}")
    return list(levels)


def _to_clean(sigmas: np.ndarray) -> list[Level]:
    return falling([Level(1.0, sigma) for sigma in sigmas.tolist()])


def _ends_at_zero(final_sigma: str) -> bool:
    if final_sigma not in ("zero", "sigma_min"):
        raise ProgramError(f"final_sigma must be 'zero' or 'sigma_min', not {checks.show(final_sigma)}")
    return final_sigma == "zero"


def _sigmas(spacing: str, sigma_min: float, sigma_max: float, steps: int, rho: float, zero: bool) -> np.ndarray:
    # `steps` noisy levels and then 0, or the same interval without it in `steps` steps.
    space = checks.look_up(SIGMA_SPACINGS, spacing)
    sigmas = space(sigma_min, sigma_max, steps if zero else steps + 1, checks.number(rho, "rho", 0.1, 1000.0))
    return np.append(sigmas, 0.0) if zero else sigmas


@SCHEDULES.register("edm")
@dataclass(frozen=True, kw_only=True)
class Edm(Schedule):
    """Noise levels sigma_max … sigma_min of x = x0 + sigma eps, then 0; time input ln(sigma) / 4 (Karras et al. 2022)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    spacing: str = "karras"
    final_sigma: str = "zero"

    def levels(self, steps: int) -> list[Level]:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ProgramError(f"a schedule needs 0 < sigma_min < sigma_max, not {self.sigma_min:g} and {self.sigma_max:g}")
        zero = _ends_at_zero(self.final_sigma)
        return _to_clean(_sigmas(self.spacing, self.sigma_min, self.sigma_max, steps, self.rho, zero))

    def timestep(self, level: Level) -> float:
        return log_noise(level) / 4

    def initial_scale(self, first: Level) -> float:
        return first.sigma


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
class Vp(Schedule):
    """A variance-preserving network of `train_steps` timesteps, sampled as x = x0 + sigma eps (k-diffusion's coordinates).

    `betas` is linear, scaled_linear or cosine (which ignores beta_start, beta_end). `spacing` is linspace, leading or trailing
    over timesteps, or karras or exponential over sigmas; the time input is the timestep, between two of them by ln(sigma).
    `final_sigma` "zero" ends at the clean sample, "sigma_min" at the first training timestep.
    """

    betas: str
    beta_start: float = 1e-4
    beta_end: float = 0.02
    train_steps: int = 1000
    spacing: str = "leading"
    steps_offset: int = 0
    final_sigma: str = "zero"
    rho: float = 7.0

    @functools.cached_property
    def _log_sigmas(self) -> np.ndarray:
        checks.integer(self.train_steps, "train_steps", 2, 1_000_000)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ProgramError(f"betas must fulfil 0 < beta_start <= beta_end < 1, not {self.beta_start:g} and {self.beta_end:g}")
        return vp_log_sigmas(self.betas, self.beta_start, self.beta_end, self.train_steps)

    def levels(self, steps: int) -> list[Level]:
        zero = _ends_at_zero(self.final_sigma)
        low, high = np.exp(self._log_sigmas[[0, -1]]).tolist()
        if self.spacing in SIGMA_SPACINGS:
            return _to_clean(_sigmas(self.spacing, low, high, steps, self.rho, zero))
        if self.spacing not in TIME_SPACINGS:
            known = ", ".join([*TIME_SPACINGS, *SIGMA_SPACINGS])
            raise ProgramError(f"unknown spacing {checks.show(self.spacing)}: choose one of {known}")
        if self.spacing == "linspace" and not zero:  # it ends at the first timestep itself
            return _to_clean(self._at(linspace(self.train_steps, steps + 1, 0)))
        times = TIME_SPACINGS[self.spacing](self.train_steps, steps, self.steps_offset)
        if times[0] > self.train_steps - 1 or times[-1] < 0:
            reach = f"timesteps {times[-1]:g} … {times[0]:g}, the network knows 0 … {self.train_steps - 1}"
            visit = f"{steps} steps with spacing {self.spacing} and steps_offset {self.steps_offset} visit {reach}"
            raise ProgramError(f"{visit}: take fewer steps, another spacing or another steps_offset")
        return _to_clean(np.append(self._at(times), 0.0 if zero else low))

    def _at(self, times: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(times, np.arange(self.train_steps), self._log_sigmas))

    def timestep(self, level: Level) -> float:
        return float(np.interp(log_noise(level), self._log_sigmas, np.arange(self.train_steps)))

    def initial_scale(self, first: Level) -> float:
        return math.hypot(first.alpha, first.sigma)  # such a network was trained on data of about unit variance


@SCHEDULES.register("flow")
@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """x = (1 − t) x0 + t eps from t = 1 to 0 in equal steps, then shifted to noisier levels.

    t ← shift · t / (1 + (shift − 1) t) (Esser et al. 2024, equation 23). The time input is t · `timestep_scale`: 1, or 1000 for
    networks trained on thousandths.
    """

    shift: float = 1.0
    timestep_scale: float = 1.0

    def levels(self, steps: int) -> list[Level]:
        time = np.linspace(1, 0, steps + 1)
        shift = checks.number(self.shift, "shift", 1e-3, 1e3)
        time = shift * time / (1 - time + shift * time)  # exactly 1 at 1
        return falling([Level(1 - t, t) for t in time.tolist()])

    def timestep(self, level: Level) -> float:
        return self.timestep_scale * level.sigma / (level.alpha + level.sigma)

    def initial_scale(self, first: Level) -> float:
        return math.hypot(first.alpha, first.sigma)


@SCHEDULES.register("table")
@dataclass(frozen=True, kw_only=True)
class Table(Schedule):
    """Noise levels given one by one: sigmas [steps + 1] falling, alphas [steps + 1] (all 1 unless given).

    `timesteps` are the network's time inputs there (the last may be left out where the network is not evaluated), interpolated
    over sigma / (alpha + sigma) elsewhere; ln(sigma / alpha) / 4 unless given. The sample starts with standard deviation
    `init_scale`, sigmas[0] unless given.
    """

    sigmas: tuple[float, ...]
    alphas: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None
    init_scale: float | None = None

    def levels(self, steps: int) -> list[Level]:
        if len(self.sigmas) != steps + 1:
            raise ProgramError(f"a schedule of {len(self.sigmas)} sigmas has {max(len(self.sigmas) - 1, 0)} steps, not {steps}")
        if self.alphas is not None and len(self.alphas) != steps + 1:
            raise ProgramError(f"alphas must be as many as sigmas ({steps + 1}), not {len(self.alphas)}")
        if self.timesteps is not None and len(self.timesteps) not in (steps, steps + 1):
            raise ProgramError(f"timesteps must be {steps} or {steps + 1}, one for each noise level, not {len(self.timesteps)}")
        return falling([Level(a, s) for a, s in zip(self.alphas or (1.0,) * (steps + 1), self.sigmas, strict=True)])

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
