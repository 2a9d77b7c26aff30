"""What two implementations of a sampler are told and what they record, so that they can be compared step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import Program
from aigc_edge.registry import Registry


@dataclass(frozen=True)
class Evaluation:
    """What the network was given: its sample [N, ...] (of a guided row one half) and its time input."""

    sample: NDArray[np.float64]
    timestep: float


@dataclass(frozen=True)
class Trace:
    """The evaluations of one run, and its result [N, ...]."""

    evaluations: list[Evaluation]
    result: NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """What the other side is told: the program, latents and noise as torch's generators draw them, classes, and the network."""

    program: Program
    latents: NDArray[np.float32]
    draws: NDArray[np.float32]
    classes: NDArray[np.int64] | None
    null_class: int | None
    seed: int
    network: Callable[[NDArray[Any], float, NDArray[np.int64] | None], NDArray[np.float32]]
    scheduler: str | None = None


PEERS: Registry[Callable[[Recipe], Trace]] = Registry("peer", "aigc_edge.verify.peers", "aigc_edge.peers")
