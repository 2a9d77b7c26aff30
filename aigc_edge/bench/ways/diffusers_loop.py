"""The peer that everybody knows: a diffusers scheduler around the same onnxruntime session."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.way import WAYS, Recipe, Way, to_uint8
from aigc_edge.bench.ways.numpy_loop import NumpyLoop, not_plain

SCHEDULERS = {"dpmpp_2m": "EDMDPMSolverMultistepScheduler", "euler": "EDMEulerScheduler"}


@WAYS.register("diffusers")
class DiffusersLoop(Way):
    """A pipeline as diffusers writes it: scale_model_input, the network, guidance, scheduler.step."""

    name, title, order = "diffusers", "diffusers", 40
    formats = ("fp32",)

    @classmethod
    def unavailable(cls, recipe: Recipe) -> str | None:
        missing = [name for name in ("diffusers", "torch") if importlib.util.find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)} not installed (pip install 'aigc-edge[diffusers]')"
        if recipe.solver not in SCHEDULERS:
            return f"written for the solvers {', '.join(SCHEDULERS)} only, not for {recipe.solver or 'a single evaluation'}"
        if recipe.program.meta.get("options"):
            return "the scheduler knows no clipping and no other options of this program"
        return not_plain(recipe)

    def __init__(self, recipe: Recipe, format: str) -> None:
        import diffusers
        import torch

        torch.set_num_threads(recipe.threads)
        self._recipe = recipe
        self._network = NumpyLoop(recipe, format)
        schedule = recipe.manifest.schedule
        assert schedule is not None  # of a program with a solver
        self._largest = schedule["sigma_max"]
        settings: dict[str, Any] = {name: schedule[name] for name in ("sigma_min", "sigma_max", "sigma_data", "rho")}
        self._scheduler = getattr(diffusers, SCHEDULERS[str(recipe.solver)])(**settings, sigma_schedule="karras")

    def generate(
        self, n: int, seed: int, classes: Sequence[int] | NDArray[np.int64] | None, latents: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        import torch

        recipe, scheduler = self._recipe, self._scheduler
        shape = (n, *recipe.shape)
        labels = None if classes is None else np.asarray(classes, dtype=np.int64)
        if recipe.guided and labels is not None:
            labels = np.concatenate([labels, np.full_like(labels, recipe.classes)])
        with torch.inference_mode():
            scheduler.set_timesteps(recipe.steps)
            drawn = (
                torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                if latents is None
                else torch.from_numpy(latents)
            )
            x = drawn * self._largest
            for timestep in scheduler.timesteps:
                network_input = scheduler.scale_model_input(torch.cat([x, x]) if recipe.guided else x, timestep)
                output = torch.from_numpy(self._network.evaluate(network_input.numpy(), float(timestep), labels))
                if recipe.guided:
                    conditional, unconditional = output.chunk(2)
                    output = unconditional + recipe.guidance * (conditional - unconditional)
                x = scheduler.step(output, timestep, x).prev_sample
        return to_uint8(x.numpy())
