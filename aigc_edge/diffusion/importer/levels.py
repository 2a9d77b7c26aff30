"""The noise level (alpha, sigma) of a diffusers scheduler's sample at each evaluation, for images that are known in parts."""

from __future__ import annotations

import copy
import math

import numpy as np

from aigc_edge.diffusion.importer import calls
from aigc_edge.diffusion.importer.probe import Trace
from aigc_edge.diffusion.prediction import PREDICTIONS

Level = tuple[float, float]


def levels(ready: calls.Ready, trace: Trace) -> list[Level | None]:
    """The level of each evaluation's sample in the scheduler's own coordinates, None where the scheduler does not tell.

    It is what the scheduler's way to add noise says, unless the D that the scheduler computes is that of another level: some
    have evaluations between two of their noise levels, which they only know the time input of.
    """
    added, kind = _added(ready), calls.prediction_kind(ready.scheduler)
    found: list[Level | None] = []
    for level, denoised in zip(added, trace.denoised, strict=True):
        if denoised is not None and kind in _INVERSE and not _same(kind, level, denoised):
            level = _inverted(kind, denoised)
        found.append(level)
    return found


def _added(ready: calls.Ready) -> list[Level | None]:
    scheduler = copy.deepcopy(ready.scheduler)
    return [_added_at(scheduler, time) for time in ready.times]


def _added_at(scheduler: object, time: object) -> Level | None:
    for name in ("_begin_index", "_step_index"):  # else the noise of the first step is added at every time
        if hasattr(scheduler, name):
            setattr(scheduler, name, None)
    try:
        level = calls.noised(scheduler, time)
    except Exception:  # whatever a foreign scheduler raises: a program without levels is a program still
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
    return 1 / c_skip, -c_out / c_skip


def _of_v(c_skip: float, c_out: float) -> Level:
    norm = math.sqrt(max(1 - c_out**2, 0.0)) / c_skip
    return c_skip * norm**2, -c_out * norm


def _of_flow(c_skip: float, c_out: float) -> Level:
    return (1 + c_out) / c_skip, -c_out / c_skip


_INVERSE = {"epsilon": _of_epsilon, "v": _of_v, "flow": _of_flow}
