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
from aigc_edge.diffusion.spacing import SIGMA_SPACINGS, beta_quantile, resampled
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


def to_clean(sigmas: np.ndarray) -> list[Level]:
    """Levels of x = x0 + sigma eps."""
    return falling([Level(1.0, sigma) for sigma in sigmas.tolist()])


def ends_at_zero(final_sigma: str) -> bool:
    """Whether the last level is the clean sample; raises ProgramError for an unknown word."""
    if final_sigma not in ("zero", "sigma_min"):
        raise ProgramError(f"final_sigma must be 'zero' or 'sigma_min', not {checks.show(final_sigma)}")
    return final_sigma == "zero"


def spaced_sigmas(spacing: str, sigma_min: float, sigma_max: float, steps: int, rho: float, zero: bool) -> np.ndarray:
    """`steps` noisy levels and then 0, or the same interval without it in `steps` steps; [steps + 1] falling."""
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
        zero = ends_at_zero(self.final_sigma)
        return to_clean(spaced_sigmas(self.spacing, self.sigma_min, self.sigma_max, steps, self.rho, zero))

    def timestep(self, level: Level) -> float:
        return log_noise(level) / 4

    def initial_scale(self, first: Level) -> float:
        return first.sigma


@SCHEDULES.register("flow")
@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """x = (1 − t) x0 + t eps from t = 1 to 0, then shifted to noisier levels.

    `spacing` is linspace (equal steps) or beta (quantiles of Beta(0.6, 0.6), dense at both ends; Lee et al. 2024).

    t ← shift · t / (1 + (shift − 1) t) (Esser et al. 2024, equation 23). The time input is t · `timestep_scale`: 1, or 1000 for
    networks trained on thousandths.
    """

    shift: float = 1.0
    timestep_scale: float = 1.0
    spacing: str = "linspace"

    def levels(self, steps: int) -> list[Level]:
        time = np.linspace(1, 0, steps + 1)
        if self.spacing == "beta":
            time = beta_quantile(time)
        elif self.spacing != "linspace":
            raise ProgramError(f"the spacing of a flow schedule must be 'linspace' or 'beta', not {checks.show(self.spacing)}")
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
    `init_scale`, sigmas[0] unless given. With `resample` the sigmas (alphas and timesteps not given) may be of any number: the
    positive ones are interpolated in ln(sigma) to the number of steps (Sabour et al. 2024, align your steps).
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
        found = resampled(self.sigmas[:-1] if zero else self.sigmas, steps if zero else steps + 1)
        return to_clean(np.append(found, 0.0) if zero else found)

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
