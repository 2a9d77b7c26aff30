"""A watch on the torch functions that a scheduler calls: its noise is supplied, its clipping noticed, its float32 widened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from aigc_edge.diffusion.importer import calls
from aigc_edge.errors import ProgramError

_CLAMPS = {"clamp", "clamp_", "clip", "clip_"}
_NORMALS = {"randn", "randn_like", "normal"}
_OTHER_NOISE = {"rand", "rand_like", "bernoulli", "multinomial", "poisson", "randint_like", "normal_", "uniform_", "exponential_"}
_BROWNIAN = "BrownianTreeNoiseSampler"


@contextlib.contextmanager
def watched(scheduler: Any, shape: tuple[int, ...], source: calls.Source) -> Iterator[None]:
    """Within it, every tensor of `shape` stays float64, and normal noise, Brownian paths and clamps are those of `source`."""
    import torch
    from torch.overrides import TorchFunctionMode

    def ours(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and tuple(value.shape) == shape

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            if name in _NORMALS:
                return _drawn(source, shape, name, args, kwargs)
            if name in _OTHER_NOISE:
                raise ProgramError(f"the scheduler draws noise by torch.{name}, but a row only knows normal noise")
            if args and ours(args[0]):
                if name in _CLAMPS:
                    limits = dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
                    low, high = (None if limits.get(k) is None else float(limits[k]) for k in ("min", "max"))
                    return source.clamp(args[0], low, high)
                if name in ("float", "half", "bfloat16"):
                    return args[0]
                if name in ("to", "type", "type_as"):
                    moved = func(*args, **kwargs)
                    return args[0] if moved.dtype.is_floating_point else moved
            return func(*args, **kwargs)

    class Path:
        """Stands for diffusers' BrownianTreeNoiseSampler."""

        def __init__(self, x: Any, sigma_min: Any, sigma_max: Any, seed: Any = None, transform: Any = None) -> None:
            self.transform = transform or (lambda sigma: sigma)

        def __call__(self, sigma: Any, sigma_next: Any) -> Any:
            start, end = (float(self.transform(torch.as_tensor(s))) for s in (sigma, sigma_next))
            return source.interval(start, end)

    with contextlib.ExitStack() as stack:
        for module in {id(m): m for m in calls.modules(scheduler) if hasattr(m, _BROWNIAN)}.values():
            stack.callback(setattr, module, _BROWNIAN, getattr(module, _BROWNIAN))
            setattr(module, _BROWNIAN, Path)
        stack.enter_context(Watch())
        yield


def _drawn(source: calls.Source, shape: tuple[int, ...], name: str, args: Any, kwargs: Any) -> Any:
    asked = tuple(args[0].shape) if name == "randn_like" else kwargs.get("size", args[0] if args else ())
    if isinstance(asked, int):
        asked = args
    if name == "normal" or tuple(asked) != shape:
        raise ProgramError(
            f"the scheduler draws noise of shape {tuple(asked)}, not that of the sample: a row has no place for it"
        )
    return source.normal()
