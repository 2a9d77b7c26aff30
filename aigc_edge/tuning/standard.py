"""The standard solvers at a number of evaluations: initial tables and baselines of a tuned one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aigc_edge.diffusion import SCHEDULES, SOLVERS, Program, build, options
from aigc_edge.diffusion.builder import schedule_kind
from aigc_edge.diffusion.schedules.spacing import SIGMA_SPACINGS, TIME_SPACINGS
from aigc_edge.errors import ProgramError


@dataclass(frozen=True)
class StandardProgram:
    """A program that a user could build for a schedule, with its solver and the spacing of its levels ("" for the default)."""

    program: Program
    solver: str
    spacing: str

    @property
    def name(self) -> str:
        """Such as "deis-8, exponential"."""
        return f"{self.program.name}{self.spacing and ', '}{self.spacing}"


def standard_programs(schedule: Mapping[str, Any], nfe: int, guidance_scale: float = 1.0) -> list[StandardProgram]:
    """Every deterministic solver on every spacing of the schedule that makes exactly `nfe` evaluations."""
    programs, seen = [], set()
    for spacing, spaced in _spacings(schedule):
        for solver in SOLVERS:
            program = _of_evaluations(spaced, solver, nfe, guidance_scale)
            if program is None or program.rows in seen:
                continue
            seen.add(program.rows)
            programs.append(StandardProgram(program, solver, spacing))
    return programs


def _spacings(schedule: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    known = options.parameters(SCHEDULES[schedule_kind(schedule)])
    spacings = [*SIGMA_SPACINGS, *TIME_SPACINGS] if "spacing" in known else [None]
    ends = ["zero", "sigma_min"] if "final_sigma" in known else [None]
    yield "", dict(schedule)
    for spacing in spacings:
        for end in ends:
            changes = {"spacing": spacing, "final_sigma": end}
            changes = {key: value for key, value in changes.items() if value is not None}
            words = [str(spacing)] if spacing else []
            yield ", ".join([*words, *(["to sigma_min"] if end == "sigma_min" else [])]), dict(schedule) | changes


def _of_evaluations(schedule: Mapping[str, Any], solver: str, nfe: int, guidance_scale: float) -> Program | None:
    for steps in range(1, nfe + 1):  # a solver may evaluate more than once a step
        try:
            program = build(schedule, solver, steps, guidance_scale=guidance_scale)
        except ProgramError:
            continue
        if program.nfe == nfe:
            noisy = any(any(row.after_noise or ()) or any(row.before_noise or ()) for row in program.rows)
            return None if noisy else dataclasses.replace(program, name=f"{solver}-{steps}")
    return None
