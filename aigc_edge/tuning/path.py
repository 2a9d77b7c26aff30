"""The noise levels of a schedule as a continuous path, so that a row may be evaluated at any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from aigc_edge.diffusion import Level, Row, resolve
from aigc_edge.diffusion.prediction import Coefficients
from aigc_edge.errors import ProgramError

_SHAPES: tuple[tuple[str, Callable[[float, float], float]], ...] = (
    ("alpha = 1", lambda alpha, sigma: alpha),
    ("alpha + sigma = 1", lambda alpha, sigma: alpha + sigma),
    ("alpha² + sigma² = 1", math.hypot),
)


class NoisePath:
    """The levels x = alpha · x0 + sigma · eps of a schedule dict (see `resolve`), by their log noise ln(sigma / alpha).

    `low` and `high` are the log noise of the last noisy and of the first level of `steps` steps; `high` is infinite for pure
    noise. Raises ProgramError for a schedule without such steps, and for levels on none of the paths alpha = 1,
    alpha + sigma = 1 and alpha² + sigma² = 1.
    """

    def __init__(self, schedule: Mapping[str, Any], steps: int) -> None:
        self.schedule = dict(schedule)
        self._times, self._predict = resolve(schedule)
        levels = self._times.levels(steps)
        noisy = [level for level in levels if level.sigma > 0]
        fits = [norm for _, norm in _SHAPES if all(abs(norm(*level) - 1) < 1e-9 for level in levels)]
        if not fits:
            names = ", ".join(name for name, _ in _SHAPES)
            raise ProgramError(f"a table is tuned where the levels of the schedule fulfil one of {names}; these do not")
        self._norm = fits[0]
        self.high, self.low = self.log_noise(noisy[0]), self.log_noise(noisy[-1])

    @staticmethod
    def log_noise(level: Level) -> float:
        """ln(sigma / alpha), infinite where alpha is 0."""
        return math.inf if level.alpha == 0 else math.log(level.sigma / level.alpha)

    def of_row(self, row: Row) -> float:
        """The log noise of a row; raises ProgramError for a row whose coefficients belong to no level of the path."""
        log_noise = self.of_sigma(row.sigma)
        actual = (row.timestep, row.c_in, row.c_skip, row.c_out)
        expected = (self.timestep(log_noise), *self.coefficients(log_noise))
        if any(abs(a - b) > 1e-6 * max(abs(a), 1.0) for a, b in zip(actual, expected, strict=True)):
            raise ProgramError(f"a row at sigma {row.sigma:g} is evaluated at a noise level that the schedule does not pass")
        return log_noise

    def of_sigma(self, sigma: float) -> float:
        """The log noise of the level with this sigma; raises ProgramError where the path has none."""
        flow, sphere = self._norm(1.0, 1.0) == 2.0, self._norm is math.hypot
        alpha = 1 - sigma if flow else math.sqrt(max(1 - sigma * sigma, 0.0)) if sphere else 1.0
        if not sigma > 0 or alpha < 0:
            raise ProgramError(f"sigma {sigma:g} is no noise level of the schedule")
        return self.log_noise(Level(alpha, sigma))

    def level(self, log_noise: float) -> Level:
        """(alpha, sigma) of a log noise."""
        if math.isinf(log_noise):
            return Level(0.0, 1.0)
        ratio = math.exp(log_noise)
        norm = self._norm(1.0, ratio)
        return Level(1 / norm, ratio / norm)

    def initial_scale(self, first: Level) -> float:
        """Standard deviation of a sample that starts at this level."""
        return self._times.initial_scale(first)

    def timestep(self, log_noise: float) -> float:
        """The network's timestep at a log noise."""
        return self._times.timestep(self.level(log_noise))

    def coefficients(self, log_noise: float) -> Coefficients:
        """c_in, c_skip and c_out of a row at this level."""
        return self._predict(*self.level(log_noise))
