"""A diffusers scheduler with its timesteps set, as a pipeline has it before the first step."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aigc_edge.diffusion.schedules import Level
from aigc_edge.errors import ProgramError

_STEP_ARGUMENTS = {  # that the loop itself provides, or that keep their defaults
    *("model_output", "timestep", "sample", "generator", "return_dict", "variance_noise", "pred_original_sample"),
    *("old_pred_original_sample", "timestep_back", "prev_timestep"),
}
_RESERVED = {"num_inference_steps", "device"} | _STEP_ARGUMENTS
_LAST_IS_END = ("DDPMWuerstchenScheduler", "SCMScheduler")  # their last timestep is the end, not an evaluation


@dataclass(frozen=True)
class PreparedScheduler:
    """A scheduler before its first step.

    `timesteps` are those of the loop, `init_scale` is the standard deviation of the first sample, `step_options` are keyword
    arguments of each `step`. If the loop starts from an image, `begin` is the index of its first timestep and `start` the level
    (alpha, sigma) there.
    """

    scheduler: Any
    timesteps: list[Any]
    init_scale: float
    step_options: Mapping[str, Any]
    begin: int = 0
    start: Level | None = None


def split_options(scheduler: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of `options` those of the scheduler's `set_timesteps`, and those of each `step`.

    Raises ProgramError for unknown options, and for a step with a required argument that a row cannot provide.
    """
    name = type(scheduler).__name__
    setter, stepper = parameters(scheduler.set_timesteps), parameters(scheduler.step)
    missing = [p.name for p in stepper.values() if p.default is p.empty and p.name not in {*_STEP_ARGUMENTS, *options}]
    if missing:
        raise ProgramError(f"{name} cannot be a table: its step needs {', '.join(missing)}, which a row has no place for")
    for key in options:
        if key in _RESERVED or (key not in setter and key not in stepper):
            known = ", ".join(k for k in [*setter, *stepper] if k not in _RESERVED) or "no options"
            raise ProgramError(f"unknown option {key!r} of {name}: it takes {known}")
    of_step = {k: v for k, v in options.items() if k not in setter}
    return {k: v for k, v in options.items() if k in setter}, of_step


def prepare_scheduler(
    scheduler: Any, steps: int | None, options: tuple[Mapping[str, Any], Mapping[str, Any]], strength: float = 1.0
) -> PreparedScheduler:
    """A copy of `scheduler` with its timesteps set; `options` are those of `split_options`.

    With a strength below 1 the loop begins where that of diffusers' image-to-image pipelines does: LCM and TCD place their
    timesteps themselves, of others the last int(strength · steps) steps are taken. Raises ProgramError where no step is left and,
    with the scheduler's own message, where the scheduler fails.
    """
    setter_options, step_options = dict(options[0]), options[1]
    name = type(scheduler).__name__
    own_strength = strength < 1 and "strength" in parameters(scheduler.set_timesteps)
    if own_strength:
        setter_options["strength"] = strength
    if steps is not None:
        setter_options["num_inference_steps"] = steps
    with foreign_errors(scheduler, "set_timesteps"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = copy.deepcopy(scheduler)
        if getattr(ready, "noise_sampler", None) is not None:
            ready.noise_sampler = None  # a Brownian path of an earlier run
        ready.set_timesteps(**setter_options)
        timesteps = list(ready.timesteps)
        if name in _LAST_IS_END:
            timesteps.pop()
        if name == "DDPMWuerstchenScheduler":
            timesteps = [t[None] for t in timesteps]
        scale = float(getattr(ready, "init_noise_sigma", 1.0))
    if not timesteps:
        raise ProgramError("it makes no evaluation with this number of steps")
    if strength == 1:
        return PreparedScheduler(ready, timesteps, scale, step_options)
    order = int(getattr(ready, "order", 1))
    count = steps or len(timesteps) // order
    begin = 0 if own_strength else (count - int(count * strength)) * order
    if begin >= len(timesteps):
        raise ProgramError(f"strength {strength:g} of {count} steps leaves none: take more steps or a higher strength")
    if hasattr(ready, "set_begin_index"):
        ready.set_begin_index(begin)
    with foreign_errors(scheduler, "add_noise"):
        start = noise_level(ready, timesteps[begin])
    return PreparedScheduler(ready, timesteps[begin:], math.hypot(*start), step_options, begin, start)


def noise_level(scheduler: Any, timestep: Any) -> Level:
    """(alpha, sigma) of the scheduler's own way to add noise to an image; raises ProgramError where it has none."""
    import torch

    image, noise = torch.eye(2, dtype=torch.float64).reshape(2, 1, 2, 1, 1)
    timestep = torch.as_tensor(timestep)
    if hasattr(scheduler, "scale_noise"):
        mixed = scheduler.scale_noise(sample=image, timestep=timestep.reshape(1), noise=noise)
    elif hasattr(scheduler, "add_noise"):
        mixed = scheduler.add_noise(original_samples=image, noise=noise, timesteps=timestep.reshape(1))
    else:
        raise ProgramError(f"{type(scheduler).__name__} cannot add noise to an image, so it cannot start from one")
    return Level(*mixed.flatten().tolist())


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of a scheduler's method."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p for p in inspect.signature(function).parameters.values() if p.kind not in kinds}


@contextlib.contextmanager
def foreign_errors(scheduler: Any, method: str) -> Iterator[None]:
    """Turns whatever a scheduler raises into a ProgramError with the scheduler's own message."""
    try:
        yield
    except ProgramError:
        raise
    except Exception as error:  # a foreign scheduler raises anything for a configuration that it does not support
        text = " ".join(str(error).split())[:200]
        raise ProgramError(f"{type(scheduler).__name__}.{method} failed: {type(error).__name__}: {text}") from error
