"""What a peer gets and records, so that two implementations of a sampler can be compared step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import Program
from aigc_edge.registry import Registry


@dataclass(frozen=True)
class NetworkInput:
    """The network's input in one evaluation: its sample [N, ...] (of a guided row one half) and its timestep."""

    sample: NDArray[np.float64]
    timestep: float


@dataclass(frozen=True)
class SamplerTrace:
    """The network inputs of one run, and its result [N, ...]."""

    evaluations: list[NetworkInput]
    result: NDArray[np.float64]


@dataclass(frozen=True)
class SamplerInputs:
    """The inputs of a peer's run.

    `latents` [N, ...] and `draws` [draws, N, ...] are those of torch's CPU generators of the seeds `seed`, `seed` + 1 …;
    `network(sample, timestep, classes)` is the bundle's denoiser; `scheduler` is the path of a scheduler_config.json.
    """

    program: Program
    latents: NDArray[np.float32]
    draws: NDArray[np.float32]
    classes: NDArray[np.int64] | None
    null_class: int | None
    seed: int
    network: Callable[[NDArray[Any], float, NDArray[np.int64] | None], NDArray[np.float32]]
    scheduler: str | None = None


PEERS: Registry[Callable[[SamplerInputs], SamplerTrace]] = Registry("peer", "aigc_edge.verify.peers", "aigc_edge.peers")
