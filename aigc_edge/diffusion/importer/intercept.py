"""Intercepts the torch functions that a scheduler's step calls: its noise, its clipping and its casts to float32."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from aigc_edge.diffusion.importer.hooks import StepHooks
from aigc_edge.errors import ProgramError

_CLAMPS = {"clamp", "clamp_", "clip", "clip_"}
_NORMALS = {"randn", "randn_like", "normal"}
_OTHER_NOISE = {"rand", "rand_like", "bernoulli", "multinomial", "poisson", "randint_like", "normal_", "uniform_", "exponential_"}
_BROWNIAN = "BrownianTreeNoiseSampler"


@contextlib.contextmanager
def intercepted(scheduler: Any, shape: tuple[int, ...], hooks: StepHooks) -> Iterator[None]:
    """Within it, tensors of `shape` stay float64, and noise, Brownian paths, clamps and thresholding are those of `hooks`.

    Raises ProgramError where a step draws noise that is not normal, or not of `shape`.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    def is_sample(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and tuple(value.shape) == shape

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            if name in _NORMALS:
                return _normal(hooks, shape, name, args, kwargs)
            if name in _OTHER_NOISE:
                raise ProgramError(f"the scheduler draws noise by torch.{name}, but a row adds normal noise only")
            if args and is_sample(args[0]):
                if name in _CLAMPS:
                    limits = dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
                    low, high = (None if limits.get(k) is None else float(limits[k]) for k in ("min", "max"))
                    return hooks.clamp(args[0], low, high)
                if name in ("float", "half", "bfloat16"):
                    return args[0]
                if name in ("to", "type", "type_as"):
                    moved = func(*args, **kwargs)
                    return args[0] if moved.dtype.is_floating_point else moved
            return func(*args, **kwargs)

    class BrownianPath:
        """Stands in for diffusers' BrownianTreeNoiseSampler."""

        def __init__(self, x: Any, sigma_min: Any, sigma_max: Any, seed: Any = None, transform: Any = None) -> None:
            self.transform = transform or (lambda sigma: sigma)

        def __call__(self, sigma: Any, sigma_next: Any) -> Any:
            start, end = (float(self.transform(torch.as_tensor(s))) for s in (sigma, sigma_next))
            return hooks.brownian(start, end)

    _intercept_threshold(scheduler, hooks)
    with contextlib.ExitStack() as stack:
        for module in {id(m): m for m in _modules(scheduler) if hasattr(m, _BROWNIAN)}.values():
            stack.callback(setattr, module, _BROWNIAN, getattr(module, _BROWNIAN))
            setattr(module, _BROWNIAN, BrownianPath)
        stack.enter_context(Mode())
        yield


def _normal(hooks: StepHooks, shape: tuple[int, ...], name: str, args: Any, kwargs: Any) -> Any:
    size = tuple(args[0].shape) if name == "randn_like" else kwargs.get("size", args[0] if args else ())
    if isinstance(size, int):
        size = args
    if name == "normal" or tuple(size) != shape:
        raise ProgramError(
            f"the scheduler draws noise of shape {tuple(size)}, but the noise that a row adds has the shape of the sample"
        )
    return hooks.normal()


def _intercept_threshold(scheduler: Any, hooks: StepHooks) -> None:
    """Redirect dynamic thresholding, which all of diffusers' schedulers do in a method of one name."""
    plain, config = getattr(scheduler, "_threshold_sample", None), getattr(scheduler, "config", {})
    if plain is not None and "dynamic_thresholding_ratio" in config:
        quantile, largest = float(config["dynamic_thresholding_ratio"]), float(config.get("sample_max_value", 1.0))
        scheduler._threshold_sample = lambda sample: hooks.threshold(sample, quantile, largest, plain)


def _modules(scheduler: Any) -> list[Any]:
    """The modules that define the scheduler's class and its bases."""
    return [sys.modules[kind.__module__] for kind in type(scheduler).__mro__ if kind.__module__ in sys.modules]
