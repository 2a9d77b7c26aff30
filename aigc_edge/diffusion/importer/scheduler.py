"""Imports any diffusers scheduler as a program: probed, realised in the fewest slots, checked against the scheduler itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.importer import calls
from aigc_edge.diffusion.importer.levels import levels
from aigc_edge.diffusion.importer.probe import Trace, probe
from aigc_edge.diffusion.importer.realise import draws, ranks, realise, tidy
from aigc_edge.diffusion.importer.recheck import residual
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import MAX_SLOTS, Matrix, Row
from aigc_edge.errors import ProgramError

LIMIT = 1e-5  # relative; above it a scheduler is refused
_GOAL = 1e-8  # the smallest state that is this close is taken

_TOKENS = "it samples discrete tokens, a table holds sums of real numbers"
_REFUSED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "ScoreSdeVeScheduler": "the step size of its corrector depends on what the network says",
    "FlowMapEulerDiscreteScheduler": "its network is told two times, a row has one",
    "PiflowScheduler": "its network returns a policy that is integrated in substeps, not an image-shaped output",
    "HeliosScheduler": "its stages change the size of the sample between rows",
    "HeliosDMDScheduler": "its stages change the size of the sample between rows",
}


class Draw(NamedTuple):
    """A program's draw as a sum of the scheduler's own unit normal draws."""

    number: int
    weights: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Imported:
    """A program, its largest relative difference to the scheduler on a random nonlinear network, and whose noise is whose."""

    program: Program
    residual: float
    draws: tuple[Draw, ...]
    trace: Trace


def import_scheduler(
    scheduler: Any,
    num_steps: int | None,
    *,
    name: str | None = None,
    guidance_scale: float = 1.0,
    strength: float = 1.0,
    **options: Any,
) -> Imported:
    """What `Program.from_diffusers` does, with the residual and the draws."""
    kind = type(scheduler).__name__
    _refuse_by_name(scheduler, kind)
    steps = None if num_steps is None else checks.integer(num_steps, "num_steps", 1, 10_000)
    taken = options | ({"strength": checks.number(strength, "strength", 0.0, 1.0)} if strength != 1 else {})
    time_scale = checks.number(options.pop("timestep_scale", 1.0), "timestep_scale")
    plan = calls.Plan.of(scheduler, steps, options, taken.get("strength", 1.0))
    try:
        ready = plan.prepare(scheduler)
        trace = probe(ready)
        trace.levels = levels(ready, trace)
        best: Imported | None = None
        first = max(ranks(trace, _GOAL))
        for slots in range(first, MAX_SLOTS + 1):
            found = _table(trace, slots, name or f"{kind}-{steps or len(trace.evaluations)}", guidance_scale)
            off = residual(found[0], ready, trace, found[1])
            if best is None or off < best.residual:
                best = Imported(found[0], off, found[1], trace)
            if off <= _GOAL:
                break
    except ProgramError as error:
        raise ProgramError(f"{kind} cannot be a table: {error}") from None
    if best is None:
        raise ProgramError(f"{kind} cannot be a table: it needs {first} slots, a program has at most {MAX_SLOTS}")
    if not best.residual <= LIMIT:
        raise ProgramError(
            f"{kind} cannot be a table: the best one of {best.program.slots} slots is {best.residual:.1e} off, "
            f"at most {LIMIT:g} is allowed; it may adapt to what the network says"
        )
    return _described(best, scheduler, steps, taken, time_scale, ready.start)


def _refuse_by_name(scheduler: Any, kind: str) -> None:
    for base in type(scheduler).__mro__:
        if base.__name__ in _REFUSED:
            raise ProgramError(f"{kind} cannot be a table: {_REFUSED[base.__name__]}")
    for method in ("set_timesteps", "step"):
        if not callable(getattr(scheduler, method, None)):
            raise ProgramError(f"{checks.show(scheduler)} is not a diffusers scheduler: it has no {method}")
    config = getattr(scheduler, "config", {})
    if str(config.get("variance_type", "")).startswith("learned"):
        raise ProgramError(
            f"{kind} has variance_type={config['variance_type']!r}: a network that predicts its variance is no table"
        )


def _table(trace: Trace, slots: int, name: str, guidance_scale: float) -> tuple[Program, tuple[Draw, ...]]:
    states, updates = realise(trace, slots)
    size = max(len(state.slots) for state in states)
    rows: list[dict[str, Any]] = []
    taken: list[Draw] = []
    for k, (evaluation, update) in enumerate(zip(trace.evaluations, updates, strict=True)):
        known, following = update.keep.shape[1], update.keep.shape[0]
        c_skip, c_out = trace.denoised[k] or evaluation.denoise or (0.0, 1.0)
        after = np.zeros((size, size + 1))
        after[:following, :known] = update.keep
        row = rows[k] if k < len(rows) else {}
        if trace.clips[k]:
            after[:following, size] = update.clipped
            if update.pull.any():
                row["after_output"] = tuple(np.pad(update.pull, (0, size - following)).tolist())
        else:  # the update is of F = (D - c_skip slot_0) / c_out
            after[:following, 0] -= update.pull * (c_skip / c_out)
            after[:following, size] = update.pull / c_out
        last = k + 1 == len(updates)
        rows[k:] = [row | _network(trace, k, c_skip, c_out) | {"after": _lists(tidy(after))}]
        for place, (scale, weights) in enumerate(draws(update.noise, last)):
            noise = tuple(np.pad(scale, (0, size - len(scale))).tolist())
            if place == 0:
                rows[k]["after_noise"] = noise
            else:
                rows.append({"before": _lists(np.eye(size)), "before_noise": noise})
            own = [(update.columns[j] - trace.first_noise, float(w)) for j, w in enumerate(weights) if w]
            taken.append(Draw(2 * k + 2 + place, tuple(own)))
    program = Program(name, size, trace.init_scale, tuple(Row(**row) for row in rows), guidance_scale)
    return program, tuple(taken)


def _network(trace: Trace, k: int, c_skip: float, c_out: float) -> dict[str, Any]:
    sample, given = trace.samples[k], trace.inputs[k]
    c_in = float(given @ sample / (sample @ sample))
    if np.abs(given - c_in * sample).max() > 1e-9 * np.abs(given).max():
        raise ProgramError("the network's input is not a multiple of the sample")
    evaluation = trace.evaluations[k]
    return {
        "sigma": evaluation.level[1] if evaluation.level else 0.0,
        "timestep": evaluation.timestep,
        "c_in": 1.0 if abs(c_in - 1.0) < 1e-13 else c_in,
        "c_skip": c_skip,
        "c_out": c_out,
        "level": trace.levels[k],
        **trace.clips[k],
    }


def _lists(matrix: np.ndarray) -> Matrix:
    return tuple(tuple(row) for row in matrix.tolist())


def _described(
    found: Imported,
    scheduler: Any,
    steps: int | None,
    options: Mapping[str, Any],
    time_scale: float,
    start: tuple[float, float] | None,
) -> Imported:
    """With its meta, which says all that `import_again` needs, or in "left_out" what of it was not plain enough."""
    rows = found.program.rows
    if time_scale != 1.0:
        rows = tuple(replace(row, timestep=row.timestep * time_scale) for row in rows)
    config, given = (
        {k: v.tolist() if hasattr(v, "tolist") else v for k, v in dict(values).items()}
        for values in (getattr(scheduler, "config", {}), options)
    )
    usual = {p.name: p.default for p in inspect.signature(type(scheduler)).parameters.values()}  # some are infinite
    lost = {k: v for k, v in [*config.items(), *given.items()] if not _is_plain(v)}
    left_out = [k for k, v in lost.items() if usual.get(k) != v]
    if not type(scheduler).__module__.startswith("diffusers."):
        left_out.append("class")
    meta: dict[str, Any] = {
        "solver": type(scheduler).__name__,
        "steps": steps,
        "source": "diffusers",
        "residual": found.residual,
        "config": {k: v for k, v in config.items() if k not in lost},
        "options": {k: v for k, v in given.items() if k not in lost},
    }
    if left_out:
        meta["left_out"] = left_out
    if start is not None:
        meta["start"] = {"alpha": start[0], "sigma": start[1]}
    return replace(found, program=replace(found.program, rows=rows, meta=meta))


def _is_plain(value: Any) -> bool:
    try:
        checks.plain(value, "meta")
    except ProgramError:
        return False
    return not (isinstance(value, (list, tuple)) and len(value) > 100)  # whole beta tables


def import_again(program: Program, strength: float) -> Program:
    """The last int(strength · steps) steps of an imported program, imported anew from what its meta says of the scheduler.

    Raises ProgramError where diffusers is missing, where the program does not hold the whole scheduler, and where the scheduler
    has other timesteps now.
    """
    meta = program.meta
    advice = f"call Program.from_diffusers(scheduler, num_steps, strength={strength!r})"
    lacks = meta.get("left_out", [] if {"config", "options", "steps", "solver"} <= set(meta) else ["config"])
    if lacks:
        raise ProgramError(f"program {program.name!r} does not hold its scheduler's {', '.join(map(str, lacks))}: {advice}")
    try:
        import diffusers
    except ImportError as error:
        raise ProgramError(f"starting program {program.name!r} in the middle needs diffusers ({error}): install it") from None
    kind = getattr(diffusers, meta["solver"], None) or getattr(diffusers.schedulers, meta["solver"], None)
    if kind is None or not hasattr(kind, "from_config"):
        raise ProgramError(f"diffusers {diffusers.__version__} has no {meta['solver']}: {advice} with the one it came from")
    scheduler, options = kind.from_config(dict(meta["config"])), dict(meta["options"])
    before, scale = options.pop("strength", 1.0), options.get("timestep_scale", 1.0)
    plain = {k: v for k, v in options.items() if k != "timestep_scale"}
    times = [float(t) * scale for t in calls.Plan.of(scheduler, meta["steps"], plain, before).prepare(scheduler).times]
    if len(times) != program.nfe or not np.allclose(times, [row.timestep for row in program.rows], rtol=1e-5):
        raise ProgramError(f"program {program.name!r} has other timesteps than its scheduler's config gives: {advice}")
    given: dict[str, Any] = {"name": program.name, "guidance_scale": program.guidance_scale, "strength": strength}
    return import_scheduler(scheduler, meta["steps"], **given, **options).program
