"""The peer that trained the network: torch evaluates it and holds the state, the solver written plainly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.runner import RUNNERS, Classes, Latents, Workload
from aigc_edge.bench.runners.numpy_loop import PlainLoop
from aigc_edge.engines.base import ENGINES


@RUNNERS.register("torch")
class TorchLoop(PlainLoop):
    """Eager torch under inference_mode, the same threads, the network rebuilt from the bundle's weights."""

    name, title, order = "torch", "torch loop", 30
    engines: ClassVar = {"cpu": "torch", "cuda": "torch"}

    @classmethod
    def unavailable(cls, workload: Workload) -> str | None:
        if workload.network.weights is None:
            return "the bundle carries no torch weights"
        return ENGINES["torch"].unavailable() or super().unavailable(workload)

    @staticmethod
    def join(parts: Sequence[Any]) -> Any:  # type: ignore[override]
        import torch

        return torch.cat(list(parts))

    def __init__(self, workload: Workload, format: str) -> None:
        import torch

        super().__init__(workload, format)
        torch.set_num_threads(workload.threads)
        self._device = "cuda:0" if workload.device == "cuda" else "cpu"
        engine = ENGINES["torch"].load(workload.source(format), threads=workload.threads)
        self._network = engine.on_device(self._device)
        self._class = next((t.name for t in engine.spec.inputs if t.role == "class"), None)

    def generate(self, n: int, seed: int, classes: Classes, latents: Latents = None) -> NDArray[np.uint8]:
        import torch

        device, labels = self._device, self.labels(classes)
        with torch.inference_mode():
            generator = torch.Generator(device).manual_seed(seed)
            shape = (n, *self.workload.shape)
            noise = torch.randn(shape, generator=generator, device=device) if latents is None else torch.from_numpy(latents)
            images = self.sample(noise.to(device), None if labels is None else torch.from_numpy(labels).to(device))
            levels = images.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
            return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def evaluate(self, x: Any, timestep: float | None, labels: Any) -> Any:
        times = None if timestep is None else x.new_full((len(x),), timestep)
        return self._network(x, times, **({} if labels is None or self._class is None else {self._class: labels}))
