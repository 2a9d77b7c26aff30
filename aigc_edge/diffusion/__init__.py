"""Sampling programs: schedules, predictions and solvers compiled into rows of numbers.

program = build({"prediction": "edm", "sigma_data": 0.5}, "dpmpp_2m", 10, guidance_scale=2.0)
images = sample(program, network, latents)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aigc_edge.diffusion.builder import build, resolve
from aigc_edge.diffusion.prediction import PREDICTIONS
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import Row
from aigc_edge.diffusion.schedules import SCHEDULES, Level, Schedule
from aigc_edge.diffusion.solvers import SOLVERS, Order, Step

if TYPE_CHECKING:
    from aigc_edge.diffusion.executor.loop import Loop
    from aigc_edge.diffusion.format import format_table
    from aigc_edge.diffusion.importer import from_diffusers
    from aigc_edge.diffusion.sampling import prepare, sample
    from aigc_edge.diffusion.svg import plot
    from aigc_edge.diffusion.truncation import truncate

__all__ = [
    "PREDICTIONS",
    "SCHEDULES",
    "SOLVERS",
    "Level",
    "Loop",
    "Order",
    "Program",
    "Row",
    "Schedule",
    "Step",
    "build",
    "format_table",
    "from_diffusers",
    "plot",
    "prepare",
    "resolve",
    "sample",
    "truncate",
]

# Loaded when first used: the package itself needs neither the native core nor torch and diffusers.
_MODULES = {
    "Loop": "executor.loop",
    "format_table": "format",
    "from_diffusers": "importer",
    "plot": "svg",
    "prepare": "sampling",
    "sample": "sampling",
    "truncate": "truncation",
}


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
