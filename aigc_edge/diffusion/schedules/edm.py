"""The schedule of EDM networks."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.schedules.base import SCHEDULES, Level, Schedule, ends_at_zero, log_noise, spaced_sigmas, to_clean
from aigc_edge.errors import ProgramError


@SCHEDULES.register("edm")
@dataclass(frozen=True, kw_only=True)
class EdmSchedule(Schedule):
    """Noise levels sigma_max … sigma_min of x = x0 + sigma · eps, then 0; timestep ln(sigma) / 4 (Karras et al. 2022).

    `spacing` is karras (with exponent `rho`), exponential or polynomial; `final_sigma` "zero" ends at the clean sample,
    "sigma_min" there. With `time` "sigma" the timestep is sigma itself, for networks that compute its logarithm themselves.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    spacing: str = "karras"
    final_sigma: str = "zero"
    time: str = "log"

    def levels(self, steps: int) -> list[Level]:
        if self.time not in ("log", "sigma"):
            raise ProgramError(f"time must be 'log' or 'sigma', not {checks.show(self.time)}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ProgramError(f"a schedule needs 0 < sigma_min < sigma_max, not {self.sigma_min:g} and {self.sigma_max:g}")
        zero = ends_at_zero(self.final_sigma)
        return to_clean(spaced_sigmas(self.spacing, self.sigma_min, self.sigma_max, steps, self.rho, zero))

    def timestep(self, level: Level) -> float:
        return level.sigma / level.alpha if self.time == "sigma" else log_noise(level) / 4

    def initial_scale(self, first: Level) -> float:
        return first.sigma
