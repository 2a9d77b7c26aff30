"""A folder's scheduler: the diffusers object, and the training schedule that it describes, where aigc-edge supports it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.loading import calling, require

_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
FEW = (4, 1, 2, 8)  # steps of a distilled generator, the default first
# Schedulers of few-step distilled networks, which do not work with other solvers.
DISTILLED = ("LCMScheduler", "TCDScheduler", "CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "SCMScheduler")
_DISTILLED_NAMES = re.compile(r"(?<![a-z])(turbo|lightning|schnell|hyper|lcm)(?![a-z])")


def scheduler_of(folder: Folder, *, kind: str | None = None, **changes: Any) -> Any:
    """The folder's scheduler, a class of diffusers; raises AigcEdgeError for other classes and invalid options.

    Some pipelines convert every scheduler to a certain `kind`, or apply `changes` to those members that its configuration has.
    """
    folder_kind = folder.class_of("scheduler")[1]
    kind = kind or folder_kind
    config = dict(folder.config("scheduler", file="scheduler_config.json"))
    cls = getattr(require("diffusers"), kind, None) if kind.endswith("Scheduler") else None
    if cls is None:
        raise AigcEdgeError(f"the scheduler of {folder.name} is a {kind}: it must be one of the installed diffusers' schedulers")
    with calling(f"copy {folder.name} again: the configuration of its scheduler is not valid for a {kind}"):
        scheduler = cls.from_config(config)
        overrides = {key: value for key, value in changes.items() if key in scheduler.config}
        return cls.from_config(scheduler.config, **overrides) if overrides else scheduler


def is_distilled(folder: Folder) -> bool:
    """Whether the generator was distilled to few steps, judging by its scheduler or name; folders have no other indication."""
    names = f"{folder.name} {folder.index.get('_name_or_path', '')}".lower()
    return folder.class_of("scheduler")[1] in DISTILLED or _DISTILLED_NAMES.search(names) is not None


def schedule_of(scheduler: Any, shift: float | None = None, timestep_scale: float = 1.0) -> Mapping[str, Any] | None:
    """Arguments of `diffusion.build`: the training noise schedule with the scheduler's spacing; None: not supported.

    `shift` and `timestep_scale` apply to flow networks; `shift` defaults to the scheduler's own.
    """
    kind, config = type(scheduler).__name__, dict(scheduler.config)
    if kind in DISTILLED:
        return None
    if kind.startswith("EDM"):
        spacing = {"karras": "karras", "exponential": "exponential"}.get(config.get("sigma_schedule", "karras"))
        if config.get("prediction_type", "epsilon") != "epsilon" or spacing is None:
            return None
        keys = ("sigma_data", "sigma_min", "sigma_max", "rho")
        return {"prediction": "edm", "spacing": spacing} | {key: float(config[key]) for key in keys}
    if kind.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction":
        configured = config.get("shift", config.get("flow_shift"))
        flow_shift = configured if shift is None else shift
        if flow_shift is None or config.get("invert_sigmas"):
            return None
        return {"prediction": "flow", "kind": "flow", "shift": float(flow_shift), "timestep_scale": float(timestep_scale)}
    return _on_timesteps(config)


def _on_timesteps(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    betas, prediction = _BETAS.get(config.get("beta_schedule", "")), _PREDICTIONS.get(config.get("prediction_type", ""))
    if betas is None or prediction is None or config.get("trained_betas") is not None:
        return None
    zero_snr = bool(config.get("rescale_betas_zero_snr", False))
    if zero_snr and prediction == "epsilon":
        return None  # at the first step epsilon contains no information about the image
    schedule = {"prediction": prediction, "kind": "vp", "betas": betas, "train_steps": int(config["num_train_timesteps"])}
    if betas != "cosine":
        schedule |= {"beta_start": float(config["beta_start"]), "beta_end": float(config["beta_end"])}
    spacing = str(config.get("timestep_spacing", "leading"))
    over_sigmas = [name for name in ("karras", "exponential") if config.get(f"use_{name}_sigmas")]
    schedule["spacing"] = over_sigmas[0] if over_sigmas and not zero_snr else spacing
    if schedule["spacing"] == "leading" and config.get("steps_offset"):
        schedule["steps_offset"] = int(config["steps_offset"])
    return schedule | ({"zero_terminal_snr": True} if zero_snr else {})


def clip_of(scheduler: Any) -> tuple[float, float] | None:
    """The range to which the scheduler clips the denoised sample, in the form of our solvers; None: no clipping."""
    config = scheduler.config
    limit = config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None
    return None if limit is None else (-float(limit), float(limit))


def dynamic_shift(scheduler: Any, tokens: int, default_max: float) -> tuple[float, float] | None:
    """(mu, shift) of a flow scheduler if its shift depends on the number of image tokens (Esser et al. 2024), else None."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return None
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", default_max)
    slope = (most - base) / (high - low)
    mu = float(tokens * slope + base - slope * low)
    return mu, mu if config.get("time_shift_type", "exponential") == "linear" else math.exp(mu)
