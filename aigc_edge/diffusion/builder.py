"""Compiles a noise schedule, a solver and a number of steps into a program."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_edge.diffusion import checks, options
from aigc_edge.diffusion.prediction import PREDICTIONS, Prediction
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import Row, identity
from aigc_edge.diffusion.schedules import SCHEDULES, Schedule
from aigc_edge.diffusion.solvers import SOLVERS, Step
from aigc_edge.errors import ProgramError

MAX_STEPS = 10_000
_COMMON = ("clip", "threshold", "guidance_interval", "guidance_rescale", "strength")  # options of every solver
_DEFAULT_KINDS = {"edm": "edm", "consistency": "edm", "flow": "flow"}  # other networks are trained on timesteps: "vp"


def schedule_kind(schedule: Mapping[str, Any]) -> Any:
    """The "kind" of a schedule dict, or the usual one for its prediction."""
    return schedule.get("kind", _DEFAULT_KINDS.get(str(schedule.get("prediction")), "vp"))


def resolve(schedule: Mapping[str, Any]) -> tuple[Schedule, Prediction]:
    """The schedule and the prediction that a schedule dict, as in a bundle's manifest, describes.

    "prediction" names an entry of PREDICTIONS, "kind" one of SCHEDULES (by default "edm" for the predictions edm and consistency,
    "flow" for flow, else "vp"); the other members are options of the two. Raises ProgramError, which lists what is allowed.
    """
    if not isinstance(schedule, Mapping) or "prediction" not in schedule:
        raise ProgramError(
            f"a schedule must be an object with a prediction (one of {', '.join(PREDICTIONS)}), not {checks.show(schedule)}; "
            "a one-shot generator has no steps to build"
        )
    name, kind = schedule["prediction"], schedule_kind(schedule)
    predict, make = checks.look_up(PREDICTIONS, name), checks.look_up(SCHEDULES, kind)
    known, own = options.parameters(make), options.parameters(predict)
    values = {key: value for key, value in schedule.items() if key not in ("prediction", "kind")}
    of_prediction = options.bind(f"prediction {name!r}", own, {key: value for key, value in values.items() if key in own})
    of_schedule = {key: value for key, value in values.items() if key not in own}
    made = make(**options.bind(f"schedule {kind!r} with prediction {name!r}", known, of_schedule, others=own))
    return made, functools.partial(predict, **of_prediction)


def build(
    schedule: Mapping[str, Any],
    solver: str,
    steps: int,
    *,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    clip: Sequence[float] | None = None,
    threshold: Sequence[float] | None = None,
    guidance_interval: Sequence[float] | None = None,
    strength: float = 1.0,
    **solver_options: Any,
) -> Program:
    """Compile `steps` steps of a solver over the noise levels of `schedule` into a program.

    `schedule` is a schedule dict (see `resolve`), `solver` an entry of SOLVERS, `steps` 1 … 10,000; `program.nfe` is the number
    of network evaluations. `guidance_scale` is the scale of classifier-free guidance, 1 = off (Ho and Salimans 2022), applied
    where low < sigma <= high if `guidance_interval` = (low, high) is given (Kynkäänniemi et al. 2024). `guidance_rescale` 0 … 1
    is that of Lin et al. (2024). `clip` = (low, high) clips the denoised sample, `threshold` = (quantile, largest) applies
    dynamic thresholding to it (see `Row`). With `strength` below 1 only the last int(strength · steps) steps are taken, from an
    image with noise added by `Program.add_noise` (image to image; Meng et al. 2022). Raises ProgramError, which lists what is
    allowed.
    """
    steps = checks.integer(steps, "steps", 1, MAX_STEPS)
    noise_schedule, predict = resolve(schedule)
    generate = checks.look_up(SOLVERS, solver)
    bound = options.bind(f"solver {solver!r}", options.parameters(generate), solver_options, others=_COMMON)
    limits = None if clip is None else checks.pair(clip, "clip")
    interval = None if guidance_interval is None else checks.pair(guidance_interval, "guidance_interval")
    if interval and not interval[0] < interval[1]:
        raise ProgramError(f"guidance_interval must be (low, high) with low < high, not {interval}")

    def row(step: Step) -> Row:
        c_in, c_skip, c_out = predict(*step.level)
        churned = step.before_noise is not None and any(step.before_noise)
        return Row(
            sigma=step.level.sigma,
            level=(step.level.alpha, step.level.sigma),
            timestep=noise_schedule.timestep(step.level),
            c_in=c_in,
            c_skip=c_skip,
            c_out=c_out,
            guidance=1.0 if interval is None or interval[0] < step.level.sigma <= interval[1] else 0.0,
            clip=limits,
            threshold=None if threshold is None else checks.pair(threshold, "threshold"),
            before=step.before or (identity(len(step.after)) if churned else None),
            before_noise=step.before_noise if churned else None,
            after=step.after,
            after_noise=step.after_noise,
        )

    taken = int(steps * checks.number(strength, "strength", 0.0, 1.0))
    if taken == 0:
        raise ProgramError(f"strength {strength:g} of {steps} steps leaves none: take more steps or a higher strength")
    levels = noise_schedule.levels(steps)[steps - taken :]
    times = (noise_schedule.timestep,) if options.takes(generate, "timestep") else ()
    rows = tuple([row(step) for step in generate(levels, *times, **bound)])
    meta: dict[str, Any] = {"solver": solver, "steps": steps, "schedule": dict(schedule)}
    if taken < steps:
        meta["start"] = {"alpha": levels[0].alpha, "sigma": levels[0].sigma}
        bound = bound | {"strength": strength}
    common = {"clip": limits, "threshold": threshold, "guidance_interval": interval, "guidance_rescale": guidance_rescale or None}
    all_options = bound | {name: value for name, value in common.items() if value is not None}
    return Program(
        name=f"{solver}-{steps}",
        slots=rows[0].slots,
        init_scale=noise_schedule.initial_scale(levels[0]),
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        rows=rows,
        meta=meta | ({"options": all_options} if all_options else {}),
    )
