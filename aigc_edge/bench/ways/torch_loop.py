"""The peer that trained the network: torch evaluates it and holds the state, the solver written plainly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench import plain
from aigc_edge.bench.way import WAYS, Recipe, Way
from aigc_edge.bench.ways.numpy_loop import not_plain
from aigc_edge.engines.base import ENGINES, shape_of


@WAYS.register("torch")
class TorchLoop(Way):
    """Eager torch under inference_mode, the same threads, the network rebuilt from the bundle's weights."""

    name, title, order = "torch", "torch loop", 30
    engine, formats = "torch", ("fp32",)

    @classmethod
    def unavailable(cls, recipe: Recipe) -> str | None:
        if "weights" not in recipe.manifest["components"][recipe.component]:
            return "the bundle carries no torch weights"
        return ENGINES["torch"].unavailable() or not_plain(recipe)

    def __init__(self, recipe: Recipe, format: str) -> None:
        import torch

        torch.set_num_threads(recipe.threads)
        self._recipe = recipe
        self._engine = ENGINES["torch"].load(recipe.source(format), threads=recipe.threads)
        self._bound: dict[int, tuple[dict[str, Any], Any, Any]] = {}
        schedule = recipe.manifest.get("schedule")
        if schedule:
            levels = (schedule["sigma_min"], schedule["sigma_max"], schedule["rho"])
            self._sigmas = plain.karras(recipe.steps, *levels)
            self._data = float(schedule["sigma_data"])

    def _network(self, batch: int) -> tuple[dict[str, Any], Any, Any]:
        """Input tensors by role, the output tensor and the call, for a batch; tensors are what the engine reads and writes."""
        import torch

        if batch not in self._bound:
            inputs = {t.name: np.zeros(shape_of(t, batch), dtype=t.dtype) for t in self._engine.spec.inputs}
            outputs = {t.name: np.zeros(shape_of(t, batch), dtype=t.dtype) for t in self._recipe.spec.outputs}
            tensors: dict[str, Any] = {t.role: torch.from_numpy(inputs[t.name]) for t in self._engine.spec.inputs}
            output = torch.from_numpy(outputs[self._recipe.spec.outputs[0].name])
            self._bound[batch] = tensors, output, self._engine.bind(inputs, outputs)
        return self._bound[batch]

    def generate(
        self, n: int, seed: int, classes: Sequence[int] | NDArray[np.int64] | None, latents: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        import torch

        recipe = self._recipe
        with torch.inference_mode():
            shape = (n, *recipe.manifest["sample_shape"])
            drawn = (
                torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                if latents is None
                else torch.from_numpy(latents)
            )
            tensors, output, call = self._network(2 * n if recipe.guided else n)
            if classes is not None and "class" in tensors:
                tensors["class"][:n] = torch.as_tensor(np.asarray(classes, dtype=np.int64))
                tensors["class"][n:] = recipe.classes
            if recipe.solver is None:
                tensors["sample"].copy_(drawn * recipe.program["init_scale"])
                call()
                images = output
            else:
                images = plain.SOLVERS[recipe.solver](self._denoise, drawn * self._sigmas[0], self._sigmas)
            levels = images.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
            return levels.permute(0, 2, 3, 1).contiguous().numpy()

    def _denoise(self, x: Any, sigma: float) -> Any:
        recipe, n, total = self._recipe, x.shape[0], math.hypot(sigma, self._data)
        tensors, output, call = self._network(2 * n if recipe.guided else n)
        tensors["sample"][:n] = x * (1 / total)
        tensors["timestep"].fill_(math.log(sigma) / 4)
        if recipe.guided:
            tensors["sample"][n:] = tensors["sample"][:n]
        call()
        value = output[n:] + recipe.guidance * (output[:n] - output[n:]) if recipe.guided else output
        denoised = (self._data / total) ** 2 * x + (sigma * self._data / total) * value
        return denoised.clamp(*recipe.clip) if recipe.clip else denoised
