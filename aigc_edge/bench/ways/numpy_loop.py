"""The peer without a library: the same network in the same onnxruntime session, the solver written plainly in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench import plain
from aigc_edge.bench.way import WAYS, Recipe, Way, to_uint8
from aigc_edge.engines.constants import Constants
from aigc_edge.engines.onnxruntime import open_session


def session_of(recipe: Recipe, format: str) -> Any:
    """An onnxruntime session on the recipe's network with the very options that the native runtime gets."""
    source = recipe.source(format)
    with source.loadable() as (relative, model):
        return open_session(model, recipe.threads, what=relative, format=format)


def not_plain(recipe: Recipe) -> str | None:
    """Why the plain solvers cannot sample this recipe; None when they can."""
    if {tensor.role for tensor in recipe.spec.inputs} & {"condition", "guidance"}:
        return "written for networks that take a class at most, not conditions or a guidance scale"
    if recipe.solver is not None and recipe.solver not in plain.SOLVERS:
        return f"written for the solvers {', '.join(plain.SOLVERS)} only, not for {recipe.solver}"
    own = set(recipe.program.meta.get("options", {})) - {"clip"}
    if own:
        return f"written for programs without the options {', '.join(sorted(own))}"
    return None


@WAYS.register("numpy")
class NumpyLoop(Way):
    """What one writes around an exported network: everything that is constant is computed before the loop."""

    name, title, order = "numpy", "NumPy loop", 20

    @classmethod
    def unavailable(cls, recipe: Recipe) -> str | None:
        return not_plain(recipe)

    def __init__(self, recipe: Recipe, format: str) -> None:
        self.recipe = recipe
        self.session = session_of(recipe, format)
        self.constants = Constants.of(recipe.opened)
        schedule = recipe.manifest.schedule
        if schedule:
            levels = (schedule["sigma_min"], schedule["sigma_max"], schedule["rho"])
            self.sigmas = plain.karras(recipe.steps, *levels)
            self.data = float(schedule["sigma_data"])

    def generate(
        self, n: int, seed: int, classes: Sequence[int] | NDArray[np.int64] | None, latents: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        recipe = self.recipe
        shape = (n, *recipe.shape)
        x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) if latents is None else latents
        labels = None if classes is None else np.asarray(classes, dtype=np.int64)
        if recipe.solver is None:
            return to_uint8(self.evaluate(x * np.float32(recipe.program.init_scale), None, labels))
        if recipe.guided and labels is not None:
            labels = np.concatenate([labels, np.full_like(labels, recipe.classes)])
        return to_uint8(
            plain.SOLVERS[recipe.solver](lambda x, sigma: self.denoise(x, sigma, labels), x * self.sigmas[0], self.sigmas)
        )

    def evaluate(self, x: NDArray[np.float32], timestep: float | None, labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """The network's output for a batch."""
        feeds: dict[str, NDArray[Any]] = {}
        for tensor in self.recipe.spec.inputs:
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
        recipe, total = self.recipe, math.hypot(sigma, self.data)
        network_input = x * (1 / total)
        if recipe.guided:
            both = self.evaluate(np.concatenate([network_input, network_input]), math.log(sigma) / 4, labels)
            conditional, unconditional = both[: len(x)], both[len(x) :]
            output = unconditional + recipe.guidance * (conditional - unconditional)
        else:
            output = self.evaluate(network_input, math.log(sigma) / 4, labels)
        denoised: NDArray[Any] = (self.data / total) ** 2 * x + (sigma * self.data / total) * output
        return denoised.clip(recipe.clip[0], recipe.clip[1]) if recipe.clip else denoised
