"""The peer without a library: the same network in the same onnxruntime session, the solver written plainly in NumPy."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench import plain
from aigc_edge.bench.runner import RUNNERS, Classes, Latents, Runner, Workload, to_uint8
from aigc_edge.engines.base import made_as
from aigc_edge.engines.constants import Constants
from aigc_edge.engines.onnxruntime import open_session


class PlainLoop(Runner):
    """What one writes around a network with EDM's preconditioning; a subclass evaluates the network on arrays of its library."""

    join: ClassVar[Callable[[Sequence[Any]], Any]]  # concatenates arrays

    @classmethod
    def unavailable(cls, workload: Workload) -> str | None:
        if {tensor.role for tensor in workload.spec.inputs} & {"condition", "guidance"}:
            return "written for networks that take a class at most, not conditions or a guidance scale"
        if workload.solver is not None and workload.solver not in plain.SOLVERS:
            return f"written for the solvers {', '.join(plain.SOLVERS)} only, not for {workload.solver}"
        own = set(workload.program.meta.get("options", {})) - {"clip"}
        if own:
            return f"written for programs without the options {', '.join(sorted(own))}"
        return None

    def __init__(self, workload: Workload, format: str) -> None:
        self.workload = workload
        schedule = workload.manifest.schedule
        if schedule:
            levels = (schedule["sigma_min"], schedule["sigma_max"], schedule["rho"])
            self.sigmas = plain.karras(workload.steps, *levels)
            self.data = float(schedule["sigma_data"])

    @abstractmethod
    def evaluate(self, x: Any, timestep: float | None, labels: Any) -> Any:
        """The network's output for a batch."""

    def labels(self, classes: Classes) -> NDArray[np.int64] | None:
        """The classes of an evaluation; with guidance, those of its unconditional half behind them."""
        if classes is None:
            return None
        labels = np.asarray(classes, dtype=np.int64)
        return np.concatenate([labels, np.full_like(labels, self.workload.classes)]) if self.workload.guided else labels

    def sample(self, noise: Any, labels: Any) -> Any:
        """Images from unit-normal latents."""
        workload = self.workload
        if workload.solver is None:
            return self.evaluate(noise * workload.program.init_scale, None, labels)
        solver = plain.SOLVERS[workload.solver]
        return solver(lambda x, sigma: self.denoise(x, sigma, labels), noise * self.sigmas[0], self.sigmas)

    def denoise(self, x: Any, sigma: float, labels: Any) -> Any:
        """D(x, sigma) with EDM's preconditioning (arXiv 2206.00364, table 1) and classifier-free guidance."""
        workload, n, total = self.workload, len(x), math.hypot(sigma, self.data)
        network_input = x * (1 / total)
        if workload.guided:
            both = self.evaluate(type(self).join([network_input, network_input]), math.log(sigma) / 4, labels)
            output = both[n:] + workload.guidance * (both[:n] - both[n:])
        else:
            output = self.evaluate(network_input, math.log(sigma) / 4, labels)
        denoised = (self.data / total) ** 2 * x + (sigma * self.data / total) * output
        return denoised.clip(*workload.clip) if workload.clip else denoised


@RUNNERS.register("numpy")
class NumpyLoop(PlainLoop):
    """NumPy arrays around an onnxruntime session: everything that is constant is computed before the loop."""

    name, title, order = "numpy", "NumPy loop", 20
    join = np.concatenate

    def __init__(self, workload: Workload, format: str) -> None:
        super().__init__(workload, format)
        self.constants = Constants.of(workload.opened)
        with workload.source(format).loadable() as (relative, model):  # with the options that the native runtime gets
            self.session = open_session(model, workload.threads, what=relative, format=made_as(relative, format))

    def generate(self, n: int, seed: int, classes: Classes, latents: Latents = None) -> NDArray[np.uint8]:
        shape = (n, *self.workload.shape)
        noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) if latents is None else latents
        return to_uint8(self.sample(noise, self.labels(classes)))

    def evaluate(self, x: NDArray[np.float32], timestep: float | None, labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        feeds: dict[str, NDArray[Any]] = {}
        for tensor in self.workload.spec.inputs:
            if tensor.role == "sample":
                feeds[tensor.name] = x
            elif tensor.role == "timestep":
                feeds[tensor.name] = np.full(len(x), timestep, dtype=np.float32)
            elif tensor.role == "constant":
                assert self.constants is not None
                assert timestep is not None
                feeds[tensor.name] = np.repeat(self.constants(timestep)[tensor.name], len(x), axis=0)
            elif labels is not None:
                feeds[tensor.name] = labels
        result: NDArray[np.float32] = self.session.run(None, feeds)[0]
        return result
