"""What may stand for the network of a program: a function, a torch module, or a loaded engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aigc_edge.errors import ProgramError


class EngineNetwork:
    """An engine (`aigc_edge.engines`) as a network: bound once to each batch size, with conditions by their input names."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._bound: dict[int, tuple[Callable[[], None], np.ndarray | None, np.ndarray]] = {}

    @property
    def dtype(self) -> str:
        """Of the sample that the engine takes."""
        return str(next(tensor.dtype for tensor in self._engine.spec.inputs if tensor.role == "sample"))

    def _bind(
        self, sample: np.ndarray, conditions: Mapping[str, Any]
    ) -> tuple[Callable[[], None], np.ndarray | None, np.ndarray]:
        spec, inputs, time = self._engine.spec, {}, None
        for tensor in spec.inputs:
            if tensor.role == "sample":
                inputs[tensor.name] = sample
            elif tensor.role == "timestep":
                inputs[tensor.name] = time = np.empty(len(sample), tensor.dtype)
            elif tensor.name in conditions:
                inputs[tensor.name] = np.ascontiguousarray(conditions[tensor.name], tensor.dtype)
            else:
                raise ProgramError(f"the network {spec.name!r} needs the condition {tensor.name!r}: give it in `conditions`")
        unknown = sorted(set(conditions) - set(inputs))
        if unknown:
            raise ProgramError(f"the network {spec.name!r} has no input {unknown[0]!r}: it has {', '.join(inputs)}")
        (output,) = spec.outputs
        made = np.empty((len(sample), *(int(size) for size in output.shape[1:])), output.dtype)
        return self._engine.bind(inputs, {output.name: made}), time, made

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, **conditions: Any) -> np.ndarray:
        if len(sample) not in self._bound:
            self._bound[len(sample)] = self._bind(sample, conditions)
        call, time, made = self._bound[len(sample)]
        if time is not None:
            time[...] = timestep
        call()
        return made


def as_network(network: Any, latents: Any) -> Any:
    """What to call on arrays like `latents`: an engine on its host buffers, or on torch tensors of their device."""
    if not hasattr(network, "bind") or not hasattr(network, "spec"):
        return network
    return EngineNetwork(network) if isinstance(latents, np.ndarray) else network.on_device(str(latents.device))


def dtype_of(network: Any) -> str | None:
    """What a module computes in, or None for a plain function."""
    own = getattr(network, "dtype", None)
    if own is None and callable(getattr(network, "parameters", None)):
        own = next((p.dtype for p in network.parameters() if p.dtype.is_floating_point), None)
    return None if own is None else str(own).removeprefix("torch.")
