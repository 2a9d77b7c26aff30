"""A diffusers scheduler as its pipelines use it: scale_model_input, the network, guidance, step."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aigc_edge.errors import AigcEdgeError
from aigc_edge.verify.base import PEERS, NetworkInput, SamplerInputs, SamplerTrace

# Our solvers that diffusers also has for networks with EDM's preconditioning: class and config.
_EDM: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EDMEulerScheduler", {}),
    "dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp_3m": ("EDMDPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m_sde": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
}


@PEERS.register("diffusers")
def run(inputs: SamplerInputs) -> SamplerTrace:
    """The scheduler that the inputs name, that the program was imported from, or that corresponds to its solver."""
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise AigcEdgeError(f"comparing with diffusers needs it ({error}): pip install 'aigc-edge[diffusers]'") from None
    kind, config, options = _scheduler(inputs)
    class_ = getattr(diffusers, kind, None)
    if class_ is None or not hasattr(class_, "from_config"):
        raise AigcEdgeError(f"diffusers {diffusers.__version__} has no scheduler {kind!r}: give one that it has")
    scheduler = class_.from_config(config)
    time_scale = options.pop("timestep_scale", 1.0)
    setter_options, step_options = (_named(f, options) for f in (scheduler.set_timesteps, scheduler.step))
    generators = [torch.Generator().manual_seed(inputs.seed + i) for i in range(len(inputs.latents))]
    for generator in generators:  # the latents were their first draw
        torch.randn(inputs.latents.shape[1:], generator=generator)
    if "generator" in inspect.signature(scheduler.step).parameters:
        step_options["generator"] = generators
    steps = inputs.program.meta.get("steps")
    evaluations: list[NetworkInput] = []
    with torch.inference_mode():
        scheduler.set_timesteps(**({} if steps is None else {"num_inference_steps": steps}), **setter_options)
        x = torch.from_numpy(inputs.latents) * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for index, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            evaluations.append(NetworkInput(scaled.numpy().astype(np.float64), float(t) * time_scale))
            weight = inputs.program.weights[min(index, inputs.program.nfe - 1)]
            output = _evaluate(inputs, scaled.numpy(), float(t) * time_scale, weight)
            x = scheduler.step(torch.from_numpy(output), t, x, return_dict=False, **step_options)[0]
    return SamplerTrace(evaluations, x.numpy().astype(np.float64))


def _evaluate(inputs: SamplerInputs, sample: Any, timestep: float, weight: float) -> Any:
    if weight == 1.0 or inputs.classes is None:
        return inputs.network(sample, timestep, inputs.classes)
    null = np.full_like(inputs.classes, inputs.null_class)
    both = inputs.network(np.concatenate([sample, sample]), timestep, np.concatenate([inputs.classes, null]))
    conditional, unconditional = np.split(both, 2)
    return unconditional + np.float32(weight) * (conditional - unconditional)


def _named(function: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


def _scheduler(inputs: SamplerInputs) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Class, config, and options of its calls."""
    meta = inputs.program.meta
    options = dict(meta.get("options", {}))
    if inputs.scheduler is not None:
        return *_read(Path(inputs.scheduler)), (options if meta.get("source") == "diffusers" else {})
    if meta.get("source") == "diffusers":
        if meta.get("left_out"):
            lost = ", ".join(map(str, meta["left_out"]))
            raise AigcEdgeError(
                f"program {inputs.program.name} does not hold its scheduler's {lost}: give its config with --scheduler"
            )
        return str(meta["solver"]), dict(meta["config"]), options
    schedule = dict(meta.get("schedule", {}))
    if schedule.get("prediction") != "edm" or meta.get("solver") not in _EDM or options:
        raise AigcEdgeError(
            f"no scheduler of diffusers is known for program {inputs.program.name}: one is for {', '.join(_EDM)} of networks "
            "with EDM's preconditioning and without options, and for imported programs; give --scheduler FILE (a "
            "scheduler_config.json), or compare with 'reference'"
        )
    kind, config = _EDM[str(meta["solver"])]
    levels = {name: schedule[name] for name in ("sigma_min", "sigma_max", "sigma_data", "rho") if name in schedule}
    return kind, config | levels | {"sigma_schedule": "karras"}, {}


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    file = file / "scheduler_config.json" if file.is_dir() else file
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = str(config["_class_name"])
    except OSError as error:
        raise AigcEdgeError(
            f"cannot read {file} ({error.strerror}): give a scheduler_config.json, as diffusers writes it"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise AigcEdgeError(f"{file} is no scheduler_config.json: it must be a JSON object with _class_name") from None
    return kind, {name: value for name, value in config.items() if not name.startswith("_")}
