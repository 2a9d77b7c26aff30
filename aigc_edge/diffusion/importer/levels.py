"""The noise level of a diffusers scheduler's sample at each evaluation, which inpainting needs."""

from __future__ import annotations

import copy
import math

import numpy as np

from aigc_edge.diffusion.importer.drive import prediction_kind
from aigc_edge.diffusion.importer.prepared import PreparedScheduler, noise_level
from aigc_edge.diffusion.importer.probe import LinearTrace
from aigc_edge.diffusion.prediction import PREDICTIONS
from aigc_edge.diffusion.schedules import Level


def levels(prepared: PreparedScheduler, trace: LinearTrace) -> list[Level | None]:
    """(alpha, sigma) of each evaluation's sample in the scheduler's own coordinates, None where it cannot be determined.

    It is the level of the scheduler's own `add_noise` at the timestep, unless the D that the scheduler computes belongs to
    another level: some schedulers evaluate between two of their noise levels, where they hold the timestep alone.
    """
    kind = prediction_kind(prepared.scheduler)
    scheduler = copy.deepcopy(prepared.scheduler)
    result: list[Level | None] = []
    for timestep, denoised in zip(prepared.timesteps, trace.denoised, strict=True):
        level = _added_noise(scheduler, timestep)
        if denoised is not None and kind in _INVERSE and not _same(kind, level, denoised):
            level = _inverted(kind, denoised)
        result.append(level)
    return result


def _added_noise(scheduler: object, timestep: object) -> Level | None:
    for name in ("_begin_index", "_step_index"):  # else the noise of the first step is added at every timestep
        if hasattr(scheduler, name):
            setattr(scheduler, name, None)
    try:
        level = noise_level(scheduler, timestep)
    except Exception:  # whatever a foreign scheduler raises: a program without levels is still a program
        return None
    return level if np.isfinite(level).all() and any(level) else None


def _same(kind: str, level: Level | None, denoised: tuple[float, float]) -> bool:
    if level is None or (level[0] == 0 and kind == "epsilon"):
        return False
    wanted = PREDICTIONS[kind](*level)
    return bool(np.allclose(denoised, (wanted.c_skip, wanted.c_out), rtol=1e-4, atol=1e-6))


def _inverted(kind: str, denoised: tuple[float, float]) -> Level | None:
    c_skip, c_out = denoised
    if not c_skip > 0:
        return None
    level = _INVERSE[kind](c_skip, c_out)
    return level if np.isfinite(level).all() and min(level) >= 0 else None


def _of_epsilon(c_skip: float, c_out: float) -> Level:
    return Level(1 / c_skip, -c_out / c_skip)


def _of_v(c_skip: float, c_out: float) -> Level:
    norm = math.sqrt(max(1 - c_out**2, 0.0)) / c_skip
    return Level(c_skip * norm**2, -c_out * norm)


def _of_flow(c_skip: float, c_out: float) -> Level:
    return Level((1 + c_out) / c_skip, -c_out / c_skip)


_INVERSE = {"epsilon": _of_epsilon, "v": _of_v, "flow": _of_flow}
