"""A loaded denoiser as a network function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.engines.base import Engine, shape_of
from aigc_edge.engines.constants import Constants


class DenoiserFunction:
    """An engine as `network(sample, timestep, classes)` of `reference.run`; buffers are bound once per batch size."""

    def __init__(self, engine: Engine, constants: Constants | None = None) -> None:
        self.engine, self.constants = engine, constants
        self._bound: dict[int, tuple[dict[str, NDArray[Any]], NDArray[Any], Callable[[], None]]] = {}

    def __call__(self, sample: NDArray[Any], timestep: NDArray[Any], classes: NDArray[Any] | None) -> NDArray[Any]:
        count, spec = len(sample), self.engine.spec
        if count not in self._bound:
            inputs: dict[str, NDArray[Any]] = {t.name: np.zeros(shape_of(t, count), t.dtype) for t in spec.inputs}
            output = np.zeros(shape_of(spec.outputs[0], count), spec.outputs[0].dtype)
            call = self.engine.bind(inputs, {spec.outputs[0].name: output})
            self._bound[count] = inputs, output, call
        inputs, output, call = self._bound[count]
        values = {"sample": sample, "timestep": timestep, "class": classes}
        for tensor in spec.inputs:
            if tensor.role == "constant":
                assert self.constants is not None
                inputs[tensor.name][...] = self.constants(float(timestep[0]))[tensor.name]  # a row has one timestep
            else:
                inputs[tensor.name][...] = values[tensor.role]
        call()
        return output.copy()
