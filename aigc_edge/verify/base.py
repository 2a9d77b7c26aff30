"""What a peer gets and records, so that two implementations of a sampler can be compared step by step, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import Program
from aigc_edge.registry import Registry
from aigc_edge.text import table


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


@dataclass(frozen=True)
class Verification:
    """`rows` hold row, sigma, timestep, other_timestep and relative_l2 of the network's input, `result` that of the samples:
    errors relative to what varies, see `metrics.paired.centred_l2`."""

    program: str
    against: str
    tolerance: float
    rows: list[dict[str, float]]
    result: float

    @property
    def first(self) -> int | None:
        """Index of the first row that diverges, the number of rows where only the result does; None where nothing does."""
        for row in self.rows:
            same_time = abs(row["timestep"] - row["other_timestep"]) <= 1e-5 * max(1.0, abs(row["timestep"]))
            if not row["relative_l2"] <= self.tolerance or not same_time:
                return int(row["row"])
        return None if self.result <= self.tolerance else len(self.rows)

    def __str__(self) -> str:
        first = self.first
        lines = []
        for row in self.rows:
            figures = (f"{row[name]:.6g}" for name in ("row", "sigma", "timestep", "other_timestep"))
            lines.append([*figures, f"{row['relative_l2']:.1e}", "diverges" if row["row"] == first else ""])
        lines.append(["result", "", "", "", f"{self.result:.1e}", "diverges" if first == len(self.rows) else ""])
        shown = table(["row", "sigma", "timestep", self.against, "relative L2 of the network's input", ""], lines)
        if first is None:
            verdict = f"{self.program} equals {self.against}: every step within {self.tolerance:g}"
        else:
            where = f"row {first}" if first < len(self.rows) else "the result"
            verdict = f"{self.program} diverges from {self.against} at {where} (more than {self.tolerance:g})"
        return f"{shown}\n{verdict}"


PEERS: Registry[Callable[[SamplerInputs], SamplerTrace]] = Registry("peer", "aigc_edge.verify.peers", "aigc_edge.peers")
