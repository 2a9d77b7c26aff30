"""Initial tables of a fit: multistep solvers on noise ranges narrower than that of the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_edge.diffusion import PREDICTIONS, build, options
from aigc_edge.errors import ProgramError
from aigc_edge.tuning.conversion import from_program
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import CoefficientTable

SOLVERS = ("deis", "dpmpp_2m")
HIGHEST = math.log(100.0)  # first log noise of a path that begins at pure noise
BELOW_HIGH = (0.0, 1.0, 2.0)  # distance of the first level from the highest, in log noise
LOWEST = (0.02, 0.06, 0.15, 0.3)  # sigma / alpha of the last level, for data of about unit variance
RHOS = (7.0, 100.0)  # spacing of the levels: Karras et al. 2022, and nearly equal steps of log noise

MAX_TABLES = len(SOLVERS) * len(BELOW_HIGH) * (len(LOWEST) + 1) * len(RHOS)


def initial_tables(path: NoisePath, nfe: int) -> Iterator[CoefficientTable]:
    """Tables of `nfe` evaluations, at most MAX_TABLES, of multistep solvers on parts of the noise range of `path`."""
    top = min(path.high, HIGHEST)
    lows = [path.low, *(low for low in map(math.log, LOWEST) if low > path.low)]
    for high in (top - below for below in BELOW_HIGH):
        for low in (low for low in lows if low < high):
            for rho in RHOS:
                for solver in SOLVERS:
                    try:
                        yield _table(path, nfe, solver, high, low, rho)
                    except ProgramError:  # such as a prediction of epsilon at pure noise
                        continue


def _table(path: NoisePath, nfe: int, solver: str, high: float, low: float, rho: float) -> CoefficientTable:
    ratios = np.linspace(math.exp(high / rho), math.exp(low / rho), nfe) ** rho
    levels = [path.level(math.log(ratio)) for ratio in ratios]
    name = path.schedule["prediction"]
    own = {key: value for key, value in path.schedule.items() if key in options.parameters(PREDICTIONS[name])}
    schedule = {
        "prediction": name,
        "kind": "table",
        "sigmas": [*(level.sigma for level in levels), 0.0],
        "alphas": [*(level.alpha for level in levels), 1.0],
        "timesteps": [path.timestep(path.log_noise(level)) for level in levels],
        "init_scale": path.initial_scale(levels[0]),
    }
    return from_program(build(schedule | own, solver, nfe), path)
