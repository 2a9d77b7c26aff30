"""How diffusers' pipelines call a scheduler: the loop, its call signatures, and a watch on what happens inside a step."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aigc_edge.diffusion.prediction import PREDICTIONS
from aigc_edge.errors import ProgramError

_OURS = ("model_output", "timestep", "sample", "generator", "return_dict", "variance_noise", "pred_original_sample")
_CARRIED = ("old_pred_original_sample", "timestep_back", "prev_timestep")  # filled in from the loop itself
_WITH_END = ("DDPMWuerstchenScheduler", "SCMScheduler")  # their last timestep is the end, not an evaluation
_PREDICTION = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


class Evaluation(NamedTuple):
    """The network's time input and the noise level (alpha, sigma) where it is known."""

    timestep: float
    level: tuple[float, float] | None
    denoise: tuple[float, float] | None  # (c_skip, c_out) by the configured prediction type, where the level is known


class Source(Protocol):
    """Where a step's noise comes from, what its clipping does, and what becomes of the sample before the next one."""

    now: int

    def changed(self, sample: Any) -> Any: ...
    def normal(self) -> Any: ...
    def interval(self, start: float, end: float) -> Any: ...
    def clamp(self, value: Any, low: float | None, high: float | None) -> Any: ...
    def threshold(self, value: Any, quantile: float, largest: float, plain: Callable[[Any], Any]) -> Any: ...


@dataclass
class Run:
    """The loop's tensors: one sample more than evaluations."""

    samples: list[Any]
    inputs: list[Any] = field(default_factory=list)
    denoised: list[Any] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """Number of steps and options of `set_timesteps` and `step`, divided by their signatures."""

    steps: int | None
    of_timesteps: Mapping[str, Any]
    of_step: Mapping[str, Any]
    strength: float = 1.0

    @staticmethod
    def of(scheduler: Any, steps: int | None, options: Mapping[str, Any], strength: float = 1.0) -> Plan:
        name = type(scheduler).__name__
        setter, stepper = _parameters(scheduler.set_timesteps), _parameters(scheduler.step)
        taken = {"num_inference_steps", "device", *_OURS, *_CARRIED}
        missing = [p.name for p in stepper.values() if p.default is p.empty and p.name not in {*_OURS, *_CARRIED, *options}]
        if missing:
            raise ProgramError(f"{name} cannot be a table: its step needs {', '.join(missing)}, which a row has no place for")
        for key in options:
            if key in taken or (key not in setter and key not in stepper):
                known = ", ".join(k for k in [*setter, *stepper] if k not in taken) or "no options"
                raise ProgramError(f"unknown option {key!r} of {name}: it takes {known}")
        return Plan(
            steps,
            {k: v for k, v in options.items() if k in setter},
            {k: v for k, v in options.items() if k in stepper and k not in setter},
            strength,
        )

    def prepare(self, scheduler: Any) -> Ready:
        """A copy of the scheduler with its timesteps set; raises ProgramError with the scheduler's own words where it fails.

        With a strength below 1 it begins where diffusers' image-to-image pipelines do: LCM and TCD place their timesteps
        themselves, of others the last int(strength · steps) steps are taken.
        """
        given = dict(self.of_timesteps)
        themselves = self.strength < 1 and "strength" in _parameters(scheduler.set_timesteps)
        if themselves:
            given["strength"] = self.strength
        if self.steps is not None:
            given["num_inference_steps"] = self.steps
        with _explained(scheduler, "set_timesteps"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ready = copy.deepcopy(scheduler)
            if getattr(ready, "noise_sampler", None) is not None:
                ready.noise_sampler = None  # a Brownian path of an earlier run
            ready.set_timesteps(**given)
            times = list(ready.timesteps)
            if type(scheduler).__name__ in _WITH_END:
                times.pop()
            if type(scheduler).__name__ == "DDPMWuerstchenScheduler":
                times = [t[None] for t in times]
            scale = float(getattr(ready, "init_noise_sigma", 1.0))
        if not times:
            raise ProgramError("it makes no evaluation with this number of steps")
        if self.strength == 1:
            return Ready(ready, times, scale, self.of_step)
        order = int(getattr(ready, "order", 1))
        count = self.steps or len(times) // order
        begin = 0 if themselves else (count - int(count * self.strength)) * order
        if begin >= len(times):
            raise ProgramError(f"strength {self.strength:g} of {count} steps leaves none: take more steps or a higher strength")
        if hasattr(ready, "set_begin_index"):
            ready.set_begin_index(begin)
        with _explained(scheduler, "add_noise"):
            start = noised(ready, times[begin])
        return Ready(ready, times[begin:], math.hypot(*start), self.of_step, begin, start)


@dataclass(frozen=True)
class Ready:
    """A scheduler before its first step, its loop's timesteps and the standard deviation of its first sample; where it starts
    from an image, the place of its first timestep and the (alpha, sigma) there."""

    scheduler: Any
    times: list[Any]
    init_scale: float
    of_step: Mapping[str, Any]
    begin: int = 0
    start: tuple[float, float] | None = None


def noised(ready: Any, time: Any) -> tuple[float, float]:
    """(alpha, sigma) by the scheduler's own way to add noise to an image."""
    import torch

    image, noise = torch.eye(2, dtype=torch.float64).reshape(2, 1, 2, 1, 1)
    time = torch.as_tensor(time)
    if hasattr(ready, "scale_noise"):
        mixed = ready.scale_noise(sample=image, timestep=time.reshape(1), noise=noise)
    elif hasattr(ready, "add_noise"):
        mixed = ready.add_noise(original_samples=image, noise=noise, timesteps=time.reshape(1))
    else:
        raise ProgramError(f"{type(ready).__name__} does not say how an image is noised, so it cannot start at one")
    alpha, sigma = mixed.flatten().tolist()
    return alpha, sigma


def _watch_threshold(scheduler: Any, source: Source) -> None:
    """Lets `source` do the dynamic thresholding, which all of diffusers' schedulers do in a method of this name."""
    plain, config = getattr(scheduler, "_threshold_sample", None), getattr(scheduler, "config", {})
    if plain is not None and "dynamic_thresholding_ratio" in config:
        quantile, largest = float(config["dynamic_thresholding_ratio"]), float(config.get("sample_max_value", 1.0))
        scheduler._threshold_sample = lambda sample: source.threshold(sample, quantile, largest, plain)


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p for p in inspect.signature(function).parameters.values() if p.kind not in kinds}


@contextlib.contextmanager
def _explained(scheduler: Any, where: str) -> Iterator[None]:
    try:
        yield
    except ProgramError:
        raise
    except Exception as error:  # whatever a foreign scheduler raises for a configuration that it does not like
        text = " ".join(str(error).split())[:200]
        raise ProgramError(f"{type(scheduler).__name__}.{where} failed: {type(error).__name__}: {text}") from error


def drive(ready: Ready, network: Callable[[int, Any], Any], sample: Any, source: Source) -> Run:
    """Run the loop of diffusers' pipelines from `sample`; `network(index, input)` returns the output, `source` the noise.

    Everything of the sample's shape stays float64. Raises ProgramError with the scheduler's own words where it fails.
    """
    from aigc_edge.diffusion.importer.watch import watched

    run, times, scheduler = Run([sample]), ready.times, copy.deepcopy(ready.scheduler)
    names = _parameters(scheduler.step)
    _watch_threshold(scheduler, source)
    previous: Any = None
    with (
        warnings.catch_warnings(),
        watched(scheduler, tuple(sample.shape), source),
        _explained(scheduler, "step"),
        _denoised_of(scheduler) as converted,
    ):
        warnings.simplefilter("ignore")
        for k, t in enumerate(times):
            source.now = k
            scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
            carried = {
                "old_pred_original_sample": previous,
                "timestep_back": times[k - 1] if k else None,
                "prev_timestep": times[k + 1] if k + 1 < len(times) else None,
            }
            given = {key: value for key, value in carried.items() if key in names} | dict(ready.of_step)
            converted.clear()
            result = scheduler.step(model_output=network(k, scaled), timestep=t, sample=sample, **given)
            sample, previous = _unpack(result)
            if sample.shape != scaled.shape:
                raise ProgramError(f"its step makes {list(sample.shape)} of a sample {list(scaled.shape)}: a row keeps the shape")
            if k + 1 < len(times):
                sample = source.changed(sample)
            level = _level(scheduler, k + ready.begin, t)
            run.inputs.append(scaled)
            run.samples.append(sample)
            run.denoised.append(converted[0] if converted else previous)
            run.evaluations.append(Evaluation(float(t), level, _denoise(scheduler, level)))
    return run


def _unpack(result: Any) -> tuple[Any, Any]:
    if isinstance(result, tuple):
        return result[0], result[1] if len(result) > 1 else None
    return result.prev_sample, getattr(result, "pred_original_sample", None)


@contextlib.contextmanager
def _denoised_of(ready: Any) -> Iterator[list[Any]]:
    """Collects what `convert_model_output` returns, where that is the denoised sample."""
    config = getattr(ready, "config", {})
    kind = str(config.get("algorithm_type", "dpmsolver++" if config.get("predict_x0") else ""))
    found: list[Any] = []
    if hasattr(ready, "convert_model_output") and (kind.endswith("++") or kind == "data_prediction"):
        original = ready.convert_model_output

        def convert(*args: Any, **kwargs: Any) -> Any:
            found.append(original(*args, **kwargs))
            return found[-1]

        ready.convert_model_output = convert
    yield found


def _level(ready: Any, index: int, t: Any) -> tuple[float, float] | None:
    """The noise level (alpha, sigma) of an evaluation, for readers and for D; None where the scheduler does not tell."""
    sigmas = getattr(ready, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(ready.timesteps):
        sigma = float(sigmas[index])
        if hasattr(ready, "_sigma_to_alpha_sigma_t"):
            import torch

            alpha, scaled = ready._sigma_to_alpha_sigma_t(torch.tensor(sigma))
            return float(alpha), float(scaled)
        return (1.0 - sigma, sigma) if "Flow" in type(ready).__name__ else (1.0, sigma)
    table = getattr(ready, "alphas_cumprod", None)
    if table is None or float(t) != int(t) or not 0 <= int(t) < len(table):
        return None
    share = float(table[int(t)])
    return share**0.5, (1.0 - share) ** 0.5


def prediction_kind(scheduler: Any) -> str | None:
    """What the scheduler's network predicts, None where it is nothing of `prediction.py` (EDM networks) or unknown."""
    usual = "flow_prediction" if "Flow" in type(scheduler).__name__ else None
    if hasattr(scheduler, "precondition_outputs"):
        return None
    return _PREDICTION.get(str(getattr(scheduler, "config", {}).get("prediction_type", usual)))


def _denoise(ready: Any, level: tuple[float, float] | None) -> tuple[float, float] | None:
    kind = prediction_kind(ready)
    if kind is None or level is None or level[0] <= 0 or level[1] <= 0:
        return None
    coefficients = PREDICTIONS[kind](*level)
    return coefficients.c_skip, coefficients.c_out


def modules(scheduler: Any) -> list[Any]:
    """The modules that the scheduler's class is made in."""
    return [sys.modules[kind.__module__] for kind in type(scheduler).__mro__ if kind.__module__ in sys.modules]
