"""Where a fit may begin: multistep solvers on noise ranges narrower than the schedule's, with no evaluation at its ends."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_edge.diffusion import PREDICTIONS, build, options
from aigc_edge.errors import ProgramError
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.table import Table, unroll

SOLVERS = ("deis", "dpmpp_2m")
HIGHEST = math.log(100.0)  # of a path that begins without an image
BELOW_HIGH = (0.0, 1.0, 2.0)  # the first level, in log noise
LOWEST = (0.02, 0.06, 0.15, 0.3)  # the last level, as sigma / alpha; data have about unit variance
RHOS = (7.0, 100.0)  # how levels lie between: Karras et al. 2022, and nearly equal steps of log noise

MOST = len(SOLVERS) * len(BELOW_HIGH) * (len(LOWEST) + 1) * len(RHOS)


def starts(path: NoisePath, nfe: int) -> Iterator[Table]:
    """Tables of `nfe` evaluations of solvers on other noise ranges of `path`."""
    top = min(path.high, HIGHEST)
    lows = [path.low, *(low for low in map(math.log, LOWEST) if low > path.low)]
    for high in (top - below for below in BELOW_HIGH):
        for low in (low for low in lows if low < high):
            for rho in RHOS:
                for solver in SOLVERS:
                    try:
                        yield _start(path, nfe, solver, high, low, rho)
                    except ProgramError:  # such as a prediction that says nothing at this level
                        continue


def _start(path: NoisePath, nfe: int, solver: str, high: float, low: float, rho: float) -> Table:
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
    return unroll(build(schedule | own, solver, nfe), path)
