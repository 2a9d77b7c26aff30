"""A loaded denoiser as a network function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion.reference import NetworkFunction
from aigc_edge.engines.base import Engine, shape_of
from aigc_edge.engines.constants import Constants


def denoiser_function(engine: Engine, constants: Constants | None = None) -> NetworkFunction:
    """`engine` as `network(sample, timestep, classes)` of `reference.run`; buffers are bound once per batch size."""
    tensors, output = engine.spec.inputs, engine.spec.outputs[0]

    @functools.cache
    def bound(count: int) -> tuple[dict[str, NDArray[Any]], NDArray[Any], Callable[[], None]]:
        inputs: dict[str, NDArray[Any]] = {t.name: np.zeros(shape_of(t, count), t.dtype) for t in tensors}
        result = np.zeros(shape_of(output, count), output.dtype)
        return inputs, result, engine.bind(inputs, {output.name: result})

    def network(sample: NDArray[Any], timestep: NDArray[Any], classes: NDArray[Any] | None) -> NDArray[Any]:
        inputs, result, call = bound(len(sample))
        known = {} if constants is None else constants(float(timestep[0]))  # a row has one timestep
        values = {"sample": sample, "timestep": timestep, "class": classes}
        for tensor in tensors:
            inputs[tensor.name][...] = known[tensor.name] if tensor.role == "constant" else values[tensor.role]
        call()
        return result.copy()

    return network
