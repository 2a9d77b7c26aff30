"""Runs a scheduler's loop as diffusers' pipelines do, and records each evaluation."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aigc_edge.diffusion.importer.hooks import StepHooks
from aigc_edge.diffusion.importer.intercept import intercepted
from aigc_edge.diffusion.importer.prepared import PreparedScheduler, foreign_errors, parameters
from aigc_edge.diffusion.prediction import PREDICTIONS
from aigc_edge.diffusion.schedules import Level
from aigc_edge.errors import ProgramError

_PREDICTION_KINDS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


class Evaluation(NamedTuple):
    """The network's timestep, the noise level and (c_skip, c_out) of the configured prediction type; None where unknown."""

    timestep: float
    level: Level | None
    denoise: tuple[float, float] | None


@dataclass
class SchedulerRun:
    """The tensors of one run of the loop: E evaluations, E + 1 samples."""

    samples: list[Any]
    inputs: list[Any] = field(default_factory=list)
    denoised: list[Any] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)


def drive(prepared: PreparedScheduler, network: Callable[[int, Any], Any], sample: Any, hooks: StepHooks) -> SchedulerRun:
    """Run the loop from `sample` [N, C, H, W] float64; `network(index, input)` returns the output of an evaluation.

    Tensors of the sample's shape stay float64. Raises ProgramError with the scheduler's own message where it fails, and for a
    step that changes the shape.
    """
    run, times, scheduler = SchedulerRun([sample]), prepared.timesteps, copy.deepcopy(prepared.scheduler)
    names = parameters(scheduler.step)
    previous: Any = None
    with (
        warnings.catch_warnings(),
        intercepted(scheduler, tuple(sample.shape), hooks),
        foreign_errors(scheduler, "step"),
        _converted_outputs(scheduler) as converted,
    ):
        warnings.simplefilter("ignore")
        for k, t in enumerate(times):
            hooks.step = k
            scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
            from_loop = {
                "old_pred_original_sample": previous,
                "timestep_back": times[k - 1] if k else None,
                "prev_timestep": times[k + 1] if k + 1 < len(times) else None,
            }
            arguments = {key: value for key, value in from_loop.items() if key in names} | dict(prepared.step_options)
            converted.clear()
            result = scheduler.step(model_output=network(k, scaled), timestep=t, sample=sample, **arguments)
            sample, previous = _unpack(result)
            if sample.shape != scaled.shape:
                raise ProgramError(f"its step makes {list(sample.shape)} of a sample {list(scaled.shape)}: a row keeps the shape")
            if k + 1 < len(times):
                sample = hooks.between_steps(sample)
            level = _level(scheduler, k + prepared.begin, t)
            run.inputs.append(scaled)
            run.samples.append(sample)
            run.denoised.append(converted[0] if converted else previous)
            run.evaluations.append(Evaluation(float(t), level, _denoise(scheduler, level)))
    return run


def prediction_kind(scheduler: Any) -> str | None:
    """The entry of PREDICTIONS that the scheduler's network predicts; None for EDM networks and unknown types."""
    default = "flow_prediction" if "Flow" in type(scheduler).__name__ else None
    if hasattr(scheduler, "precondition_outputs"):
        return None
    return _PREDICTION_KINDS.get(str(getattr(scheduler, "config", {}).get("prediction_type", default)))


def _unpack(result: Any) -> tuple[Any, Any]:
    """(sample, denoised sample or None) of what a step returned."""
    if isinstance(result, tuple):
        return result[0], result[1] if len(result) > 1 else None
    return result.prev_sample, getattr(result, "pred_original_sample", None)


@contextlib.contextmanager
def _converted_outputs(scheduler: Any) -> Iterator[list[Any]]:
    """Collects what `convert_model_output` returns, where that is the denoised sample."""
    config = getattr(scheduler, "config", {})
    kind = str(config.get("algorithm_type", "dpmsolver++" if config.get("predict_x0") else ""))
    outputs: list[Any] = []
    if hasattr(scheduler, "convert_model_output") and (kind.endswith("++") or kind == "data_prediction"):
        original = scheduler.convert_model_output

        def convert(*args: Any, **kwargs: Any) -> Any:
            outputs.append(original(*args, **kwargs))
            return outputs[-1]

        scheduler.convert_model_output = convert
    yield outputs


def _level(scheduler: Any, index: int, t: Any) -> Level | None:
    """The noise level of an evaluation; None where the scheduler does not hold it."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(scheduler.timesteps):
        sigma = float(sigmas[index])
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
            import torch

            alpha, scaled = scheduler._sigma_to_alpha_sigma_t(torch.tensor(sigma))
            return Level(float(alpha), float(scaled))
        return Level(1.0 - sigma if "Flow" in type(scheduler).__name__ else 1.0, sigma)
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or float(t) != int(t) or not 0 <= int(t) < len(table):
        return None
    share = float(table[int(t)])
    return Level(share**0.5, (1.0 - share) ** 0.5)


def _denoise(scheduler: Any, level: Level | None) -> tuple[float, float] | None:
    kind = prediction_kind(scheduler)
    if kind is None or level is None or level.alpha <= 0 or level.sigma <= 0:
        return None
    coefficients = PREDICTIONS[kind](*level)
    return coefficients.c_skip, coefficients.c_out
