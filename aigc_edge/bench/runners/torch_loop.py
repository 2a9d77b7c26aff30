"""The peer that trained the network: torch evaluates it and holds the state, the solver written plainly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench import plain
from aigc_edge.bench.runner import RUNNERS, Runner, Workload
from aigc_edge.bench.runners.numpy_loop import not_plain
from aigc_edge.engines.base import ENGINES


@RUNNERS.register("torch")
class TorchLoop(Runner):
    """Eager torch under inference_mode, the same threads, the network rebuilt from the bundle's weights."""

    name, title, order = "torch", "torch loop", 30
    engine, formats, devices = "torch", ("fp32",), ("cpu", "cuda")

    @classmethod
    def unavailable(cls, workload: Workload) -> str | None:
        if workload.network.weights is None:
            return "the bundle carries no torch weights"
        return ENGINES["torch"].unavailable() or not_plain(workload)

    def __init__(self, workload: Workload, format: str) -> None:
        import torch

        torch.set_num_threads(workload.threads)
        self._workload = workload
        self._device = "cuda:0" if workload.device == "cuda" else "cpu"
        engine = ENGINES["torch"].load(workload.source(format), threads=workload.threads)
        self._network = engine.on_device(self._device)
        self._class = next((t.name for t in engine.spec.inputs if t.role == "class"), None)
        schedule = workload.manifest.schedule
        if schedule:
            levels = (schedule["sigma_min"], schedule["sigma_max"], schedule["rho"])
            self._sigmas = plain.karras(workload.steps, *levels)
            self._data = float(schedule["sigma_data"])

    def generate(
        self, n: int, seed: int, classes: Sequence[int] | NDArray[np.int64] | None, latents: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        import torch

        workload, device = self._workload, self._device
        with torch.inference_mode():
            shape = (n, *workload.shape)
            generator = torch.Generator(device).manual_seed(seed)
            drawn = torch.randn(shape, generator=generator, device=device) if latents is None else torch.from_numpy(latents)
            drawn = drawn.to(device)
            conditions = {}
            if classes is not None and self._class is not None:
                labels = torch.as_tensor(np.asarray(classes, dtype=np.int64), device=device)
                guided = [labels, torch.full_like(labels, workload.classes)] if workload.guided else [labels]
                conditions[self._class] = torch.cat(guided)
            if workload.solver is None:
                images = self._network(drawn * workload.program.init_scale, None, **conditions)
            else:
                images = plain.SOLVERS[workload.solver](
                    lambda x, sigma: self._denoise(x, sigma, conditions), drawn * self._sigmas[0], self._sigmas
                )
            levels = images.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
            return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _denoise(self, x: Any, sigma: float, conditions: Mapping[str, Any]) -> Any:
        import torch

        workload, n, total = self._workload, x.shape[0], math.hypot(sigma, self._data)
        scaled = x * (1 / total)
        given = torch.cat([scaled, scaled]) if workload.guided else scaled
        output = self._network(given, x.new_full((len(given),), math.log(sigma) / 4), **conditions)
        value = output[n:] + workload.guidance * (output[:n] - output[n:]) if workload.guided else output
        denoised = (self._data / total) ** 2 * x + (sigma * self._data / total) * value
        return denoised.clamp(*workload.clip) if workload.clip else denoised
