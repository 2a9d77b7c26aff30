"""What a noise schedule is: from a number of steps to falling noise levels, and from a noise level to the timestep."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules.spacing import SIGMA_SPACINGS
from aigc_edge.errors import ProgramError
from aigc_edge.registry import Registry


class Level(NamedTuple):
    """A noise level: x = alpha · x0 + sigma · eps."""

    alpha: float
    sigma: float


class Schedule(ABC):
    """The noise levels that a network was trained on, and those that a sampler visits; its keyword parameters are its options."""

    @abstractmethod
    def levels(self, steps: int) -> list[Level]:
        """The `steps` + 1 noise levels at which the steps begin and end, the noisiest first."""

    @abstractmethod
    def timestep(self, level: Level) -> float:
        """The network's timestep at a noise level with sigma > 0."""

    @abstractmethod
    def initial_scale(self, first: Level) -> float:
        """Standard deviation of the sample at the first level."""


SCHEDULES: Registry[type[Schedule]] = Registry("schedule kind", "aigc_edge.diffusion.schedules", "aigc_edge.schedules")


def log_noise(level: Level) -> float:
    """ln(sigma / alpha), the negative half-log-SNR; raises ProgramError where alpha is 0 (pure noise)."""
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
    """The levels (1, sigma) of x = x0 + sigma · eps for sigmas [steps + 1]."""
    return falling([Level(1.0, sigma) for sigma in sigmas.tolist()])


def ends_at_zero(final_sigma: str) -> bool:
    """Whether `final_sigma` is "zero" (the clean sample) rather than "sigma_min"; raises ProgramError for other values."""
    checks.choice(final_sigma, "final_sigma", "zero", "sigma_min")
    return final_sigma == "zero"


def spaced_sigmas(spacing: str, sigma_min: float, sigma_max: float, steps: int, rho: float, zero: bool) -> np.ndarray:
    """Falling sigmas [steps + 1]: from sigma_max to sigma_min, followed by 0 if `zero`."""
    space = checks.look_up(SIGMA_SPACINGS, spacing)
    sigmas = space(sigma_min, sigma_max, steps if zero else steps + 1, checks.number(rho, "rho", 0.1, 1000.0))
    return np.append(sigmas, 0.0) if zero else sigmas
