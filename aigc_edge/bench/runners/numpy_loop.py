"""The peer without a library: the same network in the same onnxruntime session, the solver written plainly in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench import plain
from aigc_edge.bench.runner import RUNNERS, Runner, Workload, to_uint8
from aigc_edge.engines.constants import Constants
from aigc_edge.engines.onnxruntime import open_session


def session_of(workload: Workload, format: str) -> Any:
    """An onnxruntime session on the workload's network with the very options that the native runtime gets."""
    source = workload.source(format)
    with source.loadable() as (relative, model):
        return open_session(model, workload.threads, what=relative, format=format)


def not_plain(workload: Workload) -> str | None:
    """Why the plain solvers cannot sample this workload; None when they can."""
    if {tensor.role for tensor in workload.spec.inputs} & {"condition", "guidance"}:
        return "written for networks that take a class at most, not conditions or a guidance scale"
    if workload.solver is not None and workload.solver not in plain.SOLVERS:
        return f"written for the solvers {', '.join(plain.SOLVERS)} only, not for {workload.solver}"
    own = set(workload.program.meta.get("options", {})) - {"clip"}
    if own:
        return f"written for programs without the options {', '.join(sorted(own))}"
    return None


@RUNNERS.register("numpy")
class NumpyLoop(Runner):
    """What one writes around an exported network: everything that is constant is computed before the loop."""

    name, title, order = "numpy", "NumPy loop", 20

    @classmethod
    def unavailable(cls, workload: Workload) -> str | None:
        return not_plain(workload)

    def __init__(self, workload: Workload, format: str) -> None:
        self.workload = workload
        self.session = session_of(workload, format)
        self.constants = Constants.of(workload.opened)
        schedule = workload.manifest.schedule
        if schedule:
            levels = (schedule["sigma_min"], schedule["sigma_max"], schedule["rho"])
            self.sigmas = plain.karras(workload.steps, *levels)
            self.data = float(schedule["sigma_data"])

    def generate(
        self, n: int, seed: int, classes: Sequence[int] | NDArray[np.int64] | None, latents: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        workload = self.workload
        shape = (n, *workload.shape)
        x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) if latents is None else latents
        labels = None if classes is None else np.asarray(classes, dtype=np.int64)
        if workload.solver is None:
            return to_uint8(self.evaluate(x * np.float32(workload.program.init_scale), None, labels))
        if workload.guided and labels is not None:
            labels = np.concatenate([labels, np.full_like(labels, workload.classes)])
        return to_uint8(
            plain.SOLVERS[workload.solver](lambda x, sigma: self.denoise(x, sigma, labels), x * self.sigmas[0], self.sigmas)
        )

    def evaluate(self, x: NDArray[np.float32], timestep: float | None, labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """The network's output for a batch."""
        feeds: dict[str, NDArray[Any]] = {}
        for tensor in self.workload.spec.inputs:
            if tensor.role == "sample":
                feeds[tensor.name] = x
            elif tensor.role == "timestep":
                feeds[tensor.name] = np.full(len(x), timestep, dtype=np.float32)
            elif tensor.role == "constant":
                assert self.constants is not None
                assert timestep is not None
                value = self.constants(timestep)[tensor.name]
                feeds[tensor.name] = np.repeat(value, len(x), axis=0)
            elif labels is not None:
                feeds[tensor.name] = labels
        result: NDArray[np.float32] = self.session.run(None, feeds)[0]
        return result

    def denoise(self, x: NDArray[np.float32], sigma: float, labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """D(x, sigma) with EDM's preconditioning (arXiv 2206.00364, table 1) and classifier-free guidance."""
        workload, total = self.workload, math.hypot(sigma, self.data)
        network_input = x * (1 / total)
        if workload.guided:
            both = self.evaluate(np.concatenate([network_input, network_input]), math.log(sigma) / 4, labels)
            conditional, unconditional = both[: len(x)], both[len(x) :]
            output = unconditional + workload.guidance * (conditional - unconditional)
        else:
            output = self.evaluate(network_input, math.log(sigma) / 4, labels)
        denoised: NDArray[Any] = (self.data / total) ** 2 * x + (sigma * self.data / total) * output
        return denoised.clip(workload.clip[0], workload.clip[1]) if workload.clip else denoised
