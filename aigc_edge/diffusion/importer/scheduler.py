"""Imports a diffusers scheduler as a program: probed, realised in the fewest slots, verified against the scheduler itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.importer.draws import NoiseDraw
from aigc_edge.diffusion.importer.levels import levels
from aigc_edge.diffusion.importer.prepared import prepare_scheduler, split_options
from aigc_edge.diffusion.importer.probe import LinearTrace, probe
from aigc_edge.diffusion.importer.realise import draws, ranks, realise, tidy
from aigc_edge.diffusion.importer.residual import residual
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import MAX_SLOTS, Matrix, Row
from aigc_edge.diffusion.schedules import Level
from aigc_edge.errors import ProgramError

LIMIT = 1e-5  # largest residual of an imported program; above it a scheduler is refused
_GOAL = 1e-8  # the smallest state with this residual is taken

_TOKENS = "it samples discrete tokens, a table holds sums of real numbers"
_REFUSED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "ScoreSdeVeScheduler": "the step size of its corrector depends on the network's output",
    "FlowMapEulerDiscreteScheduler": "its network takes two timesteps, a row has one",
    "PiflowScheduler": "its network returns a policy that is integrated in substeps, not an image-shaped output",
    "HeliosScheduler": "its stages change the size of the sample between rows",
    "HeliosDMDScheduler": "its stages change the size of the sample between rows",
}


@dataclass(frozen=True)
class ImportedScheduler:
    """An imported program, its residual (see `residual`), and how its noise draws are composed of the scheduler's."""

    program: Program
    residual: float
    draws: tuple[NoiseDraw, ...]
    trace: LinearTrace


def from_diffusers(
    scheduler: Any,
    steps: int | None,
    *,
    name: str | None = None,
    guidance_scale: float = 1.0,
    strength: float = 1.0,
    timestep_scale: float = 1.0,
    **options: Any,
) -> Program:
    """The program of a configured diffusers scheduler, found by running it on unit vectors (needs diffusers and torch).

    `options` are passed to the scheduler's `set_timesteps` (sigmas, timesteps, mu …; `steps` may then be None) and `step` (eta,
    s_churn, use_clipped_model_output …). `timestep_scale` multiplies the network's timesteps, for networks trained on 0 … 1
    instead of 0 … 1000. `strength` below 1 takes the last int(strength · steps) steps, as diffusers' image-to-image pipelines do
    (those of flow models round up); see `Program.add_noise`. The scheduler itself is not changed.

    The program has the fewest slots that reproduce the scheduler; `meta["residual"]` is its largest relative difference on a
    random nonlinear network. Rows have a level where the scheduler's can be determined, so that a mask works. Raises
    ProgramError, with the reason, for a scheduler that cannot be a table: discrete or adaptive steps, learned variance, more than
    one clipping in a step, or a residual above 1e-5.
    """
    numbers: dict[str, Any] = {"guidance_scale": guidance_scale, "strength": strength, "timestep_scale": timestep_scale}
    return import_scheduler(scheduler, steps, name=name, **numbers, **options).program


def import_scheduler(
    scheduler: Any,
    steps: int | None,
    *,
    name: str | None = None,
    guidance_scale: float = 1.0,
    strength: float = 1.0,
    timestep_scale: float = 1.0,
    **options: Any,
) -> ImportedScheduler:
    """`from_diffusers`, with the residual, the noise draws and the trace."""
    kind = type(scheduler).__name__
    _refuse_by_name(scheduler, kind)
    count = None if steps is None else checks.integer(steps, "steps", 1, 10_000)
    share = checks.number(strength, "strength", 0.0, 1.0)
    time_scale = checks.number(timestep_scale, "timestep_scale")
    of_methods = split_options(scheduler, options)
    try:
        prepared = prepare_scheduler(scheduler, count, of_methods, share)
        trace = probe(prepared)
        trace.levels = levels(prepared, trace)
        best: ImportedScheduler | None = None
        fewest = max(ranks(trace, _GOAL))
        for slots in range(fewest, MAX_SLOTS + 1):
            program, noise_draws = _table(trace, slots, name or f"{kind}-{count or len(trace.evaluations)}", guidance_scale)
            difference = residual(program, prepared, trace, noise_draws)
            if best is None or difference < best.residual:
                best = ImportedScheduler(program, difference, noise_draws, trace)
            if difference <= _GOAL:
                break
    except ProgramError as error:
        raise ProgramError(f"{kind} cannot be a table: {error}") from None
    if best is None:
        raise ProgramError(f"{kind} cannot be a table: it needs {fewest} slots, a program has at most {MAX_SLOTS}")
    if not best.residual <= LIMIT:
        raise ProgramError(
            f"{kind} cannot be a table: the best one of {best.program.slots} slots has a residual of {best.residual:.1e}, "
            f"at most {LIMIT:g} is allowed; it may adapt to the network's output"
        )
    recorded = ({"timestep_scale": time_scale} if time_scale != 1 else {}) | options | ({"strength": share} if share != 1 else {})
    return _described(best, scheduler, count, recorded, time_scale, prepared.start)


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


def _table(trace: LinearTrace, slots: int, name: str, guidance_scale: float) -> tuple[Program, tuple[NoiseDraw, ...]]:
    states, updates = realise(trace, slots)
    size = max(map(len, states))
    rows: list[dict[str, Any]] = []
    noise_draws: list[NoiseDraw] = []
    for k, (evaluation, update) in enumerate(zip(trace.evaluations, updates, strict=True)):
        following, current = update.keep.shape
        c_skip, c_out = trace.denoised[k] or evaluation.denoise or (0.0, 1.0)
        after = np.zeros((size, size + 1))
        after[:following, :current] = update.keep
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
            noise_draws.append(NoiseDraw(2 * k + 2 + place, tuple(own)))
    program = Program(name, size, trace.init_scale, tuple(Row(**row) for row in rows), guidance_scale)
    return program, tuple(noise_draws)


def _network(trace: LinearTrace, k: int, c_skip: float, c_out: float) -> dict[str, Any]:
    sample, network_input = trace.samples[k], trace.inputs[k]
    c_in = float(network_input @ sample / (sample @ sample))
    if np.abs(network_input - c_in * sample).max() > 1e-9 * np.abs(network_input).max():
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
    imported: ImportedScheduler,
    scheduler: Any,
    steps: int | None,
    options: Mapping[str, Any],
    time_scale: float,
    start: Level | None,
) -> ImportedScheduler:
    """With the program's meta: all that `import_again` needs, and in "left_out" what of it JSON does not hold."""
    rows = imported.program.rows
    if time_scale != 1.0:
        rows = tuple(replace(row, timestep=row.timestep * time_scale) for row in rows)
    config, arguments = (
        {k: v.tolist() if hasattr(v, "tolist") else v for k, v in dict(values).items()}
        for values in (getattr(scheduler, "config", {}), options)
    )
    defaults = {p.name: p.default for p in inspect.signature(type(scheduler)).parameters.values()}  # some are infinite
    dropped = {k: v for k, v in [*config.items(), *arguments.items()] if not _is_plain(v)}
    left_out = [k for k, v in dropped.items() if defaults.get(k) != v]
    if not type(scheduler).__module__.startswith("diffusers."):
        left_out.append("class")
    meta: dict[str, Any] = {
        "solver": type(scheduler).__name__,
        "steps": steps,
        "source": "diffusers",
        "residual": imported.residual,
        "config": {k: v for k, v in config.items() if k not in dropped},
        "options": {k: v for k, v in arguments.items() if k not in dropped},
    }
    if left_out:
        meta["left_out"] = left_out
    if start is not None:
        meta["start"] = {"alpha": start.alpha, "sigma": start.sigma}
    return replace(imported, program=replace(imported.program, rows=rows, meta=meta))


def _is_plain(value: Any) -> bool:
    try:
        checks.plain(value, "meta")
    except ProgramError:
        return False
    return not (isinstance(value, (list, tuple)) and len(value) > 100)  # whole beta tables


def import_again(program: Program, strength: float) -> Program:
    """The last int(strength · steps) steps of an imported program, imported again from the scheduler that its meta describes.

    Raises ProgramError where diffusers is missing, where the meta does not hold the whole scheduler, and where the scheduler of
    the installed diffusers has other timesteps.
    """
    meta = program.meta
    advice = f"call from_diffusers(scheduler, steps, strength={strength!r})"
    lacks = meta.get("left_out", [] if {"config", "options", "steps", "solver"} <= set(meta) else ["config"])
    if lacks:
        raise ProgramError(f"program {program.name!r} does not hold its scheduler's {', '.join(map(str, lacks))}: {advice}")
    try:
        import diffusers
    except ImportError as error:
        raise ProgramError(f"truncating program {program.name!r} needs diffusers ({error}): install it") from None
    kind = getattr(diffusers, meta["solver"], None) or getattr(diffusers.schedulers, meta["solver"], None)
    if kind is None or not hasattr(kind, "from_config"):
        raise ProgramError(f"diffusers {diffusers.__version__} has no {meta['solver']}: {advice} with the one it came from")
    scheduler, options = kind.from_config(dict(meta["config"])), dict(meta["options"])
    before, scale = options.pop("strength", 1.0), options.pop("timestep_scale", 1.0)
    prepared = prepare_scheduler(scheduler, meta["steps"], split_options(scheduler, options), before)
    timesteps = [float(t) * scale for t in prepared.timesteps]
    if len(timesteps) != program.nfe or not np.allclose(timesteps, [row.timestep for row in program.rows], rtol=1e-5):
        raise ProgramError(f"program {program.name!r} has other timesteps than its scheduler's config gives: {advice}")
    numbers: dict[str, Any] = {"guidance_scale": program.guidance_scale, "strength": strength, "timestep_scale": scale}
    return from_diffusers(scheduler, meta["steps"], name=program.name, **numbers, **options)
