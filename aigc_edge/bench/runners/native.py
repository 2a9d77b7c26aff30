"""The library itself: exactly the public calls that an application makes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.runner import RUNNERS, Classes, Latents, Runner, Workload

PROMPT = "a photograph of a cat on a red sofa"  # of a bundle with text encoders


@RUNNERS.register("native")
class Native(Runner):
    """`aigc_edge.open(...).sample(...)`."""

    name, title, order = "native", "aigc-edge", 0
    engines: ClassVar = {"cpu": "onnxruntime", "cuda": "torch"}

    def __init__(self, workload: Workload, format: str) -> None:
        import aigc_edge

        self._workload = workload
        engine, device = self.engines[workload.device], workload.device
        self._pipeline = aigc_edge.open(workload.bundle, format=format, threads=workload.threads, engine=engine, device=device)
        self._text: dict[str, Any] = {"prompt": PROMPT} if workload.manifest.text else {}
        self._encoding: dict[str, float] = {}
        if self._text:  # encoded once, at opening: what is timed is sampling
            self._pipeline.encode([PROMPT, ""])
            self._encoding = self._pipeline.component_seconds
        if own := workload.conditions:
            self._text["conditions"] = own
            if workload.guided:
                self._text["negative_conditions"] = {name: np.zeros_like(value) for name, value in own.items()}

    def generate(self, n: int, seed: int, classes: Classes, latents: Latents = None) -> NDArray[np.uint8]:
        workload = self._workload
        program: dict[str, Any] = {"solver": workload.solver, "steps": workload.steps} if workload.custom else {}
        images: NDArray[np.uint8] = self._pipeline.sample(
            n, seed=seed, classes=classes, guidance_scale=workload.guidance, latents=latents, **self._text, **program
        )
        return images

    def seconds(self) -> tuple[float, float] | None:
        stats = self._pipeline.stats
        if "network_seconds" not in stats:  # one graph on a GPU has no parts
            return None
        return float(stats["total_seconds"]), float(stats["network_seconds"])

    def component_seconds(self) -> dict[str, float]:
        """Those of text encoders are of the prompts that were encoded at opening."""
        return {**self._encoding, **self._pipeline.component_seconds}

    def close(self) -> None:
        self._pipeline.close()
