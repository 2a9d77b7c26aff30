"""Sampling programs: schedules, predictions and solvers compiled into rows of numbers (pure NumPy).

program = build({"prediction": "edm", "sigma_data": 0.5}, "dpmpp_2m", 10, guidance_scale=2.0)
print(program)
"""

from __future__ import annotations

from aigc_edge.diffusion.build import build, resolve
from aigc_edge.diffusion.prediction import PREDICTIONS
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import Row
from aigc_edge.diffusion.schedule import SCHEDULES
from aigc_edge.diffusion.solvers import SOLVERS

__all__ = ["PREDICTIONS", "SCHEDULES", "SOLVERS", "Program", "Row", "build", "resolve"]
