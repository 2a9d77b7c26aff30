"""Noise schedules: one module per kind, found by its name in SCHEDULES."""

from __future__ import annotations

from aigc_edge.diffusion.schedules.base import SCHEDULES, Level, Schedule

__all__ = ["SCHEDULES", "Level", "Schedule"]
