"""The peer that everybody knows: a diffusers scheduler around the same onnxruntime session."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.runner import RUNNERS, Classes, Latents, Workload, to_uint8
from aigc_edge.bench.runners.numpy_loop import NumpyLoop

SCHEDULERS = {"dpmpp_2m": "EDMDPMSolverMultistepScheduler", "euler": "EDMEulerScheduler"}


@RUNNERS.register("diffusers")
class DiffusersLoop(NumpyLoop):
    """A pipeline as diffusers writes it: scale_model_input, the network, guidance, scheduler.step."""

    name, title, order = "diffusers", "diffusers", 40
    formats = ("fp32",)

    @classmethod
    def unavailable(cls, workload: Workload) -> str | None:
        missing = [name for name in ("diffusers", "torch") if importlib.util.find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)} not installed (pip install 'aigc-edge[diffusers]')"
        if workload.solver not in SCHEDULERS:
            return f"written for the solvers {', '.join(SCHEDULERS)} only, not for {workload.solver or 'a single evaluation'}"
        if workload.program.meta.get("options"):
            return "the scheduler knows no clipping and no other options of this program"
        return super().unavailable(workload)

    def __init__(self, workload: Workload, format: str) -> None:
        import diffusers
        import torch

        super().__init__(workload, format)
        torch.set_num_threads(workload.threads)
        schedule = workload.manifest.schedule
        assert schedule is not None  # of a program with a solver
        self._largest = schedule["sigma_max"]
        settings: dict[str, Any] = {name: schedule[name] for name in ("sigma_min", "sigma_max", "sigma_data", "rho")}
        self._scheduler = getattr(diffusers, SCHEDULERS[str(workload.solver)])(**settings, sigma_schedule="karras")

    def generate(self, n: int, seed: int, classes: Classes, latents: Latents = None) -> NDArray[np.uint8]:
        import torch

        workload, scheduler, labels = self.workload, self._scheduler, self.labels(classes)
        with torch.inference_mode():
            scheduler.set_timesteps(workload.steps)
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn((n, *workload.shape), generator=generator) if latents is None else torch.from_numpy(latents)
            x = noise * self._largest
            for timestep in scheduler.timesteps:
                network_input = scheduler.scale_model_input(torch.cat([x, x]) if workload.guided else x, timestep)
                output = torch.from_numpy(self.evaluate(network_input.numpy(), float(timestep), labels))
                if workload.guided:
                    conditional, unconditional = output.chunk(2)
                    output = unconditional + workload.guidance * (conditional - unconditional)
                x = scheduler.step(output, timestep, x).prev_sample
        return to_uint8(x.numpy())
