"""The floor: the network's evaluations alone, on bound buffers, with nothing between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.runner import RUNNERS, Classes, Latents, Runner, Workload
from aigc_edge.engines.base import ENGINES, shape_of


@RUNNERS.register("network")
class NetworkAlone(Runner):
    """As many evaluations as a program needs, of random input: no runner can be faster with this engine."""

    name, title, order = "network", "network alone", 10

    def __init__(self, workload: Workload, format: str) -> None:
        self._workload = workload
        self._bound: dict[int, Callable[[], None]] = {}
        self._engine = ENGINES["onnxruntime"].load(workload.source(format), threads=workload.threads)

    def _binding(self, batch: int) -> Callable[[], None]:
        if batch not in self._bound:
            draw = np.random.default_rng(0)
            inputs = {}
            for tensor in self._workload.spec.inputs:
                shape = shape_of(tensor, batch)
                labels = np.arange(batch) % max(self._workload.classes, 1)
                values = labels if tensor.role == "class" else draw.standard_normal(shape)
                inputs[tensor.name] = np.ascontiguousarray(values, dtype=tensor.dtype)
            outputs = {t.name: np.zeros(shape_of(t, batch), dtype=t.dtype) for t in self._workload.spec.outputs}
            self._bound[batch] = self._engine.bind(inputs, outputs)
        return self._bound[batch]

    def generate(self, n: int, seed: int, classes: Classes, latents: Latents = None) -> NDArray[np.uint8]:
        run = self._binding(2 * n if self._workload.guided else n)
        for _ in range(self._workload.evaluations):
            run()
        return np.zeros((0, 0, 0, 0), dtype=np.uint8)
