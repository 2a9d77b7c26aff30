"""Verifies an imported program against its scheduler, step by step, around a random nonlinear network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aigc_edge.diffusion.importer.draws import NoiseDraw, noise_function
from aigc_edge.diffusion.importer.drive import drive
from aigc_edge.diffusion.importer.hooks import StepHooks
from aigc_edge.diffusion.importer.prepared import PreparedScheduler
from aigc_edge.diffusion.importer.probe import LinearTrace, shares
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.reference import run

SHAPE = (2, 3, 4, 5)


class PresetNoise(StepHooks):
    """Step hooks that return noise drawn beforehand, one array per draw (or increment of a Brownian path)."""

    def __init__(self, noise: Sequence[np.ndarray], edges: np.ndarray | None) -> None:
        self.noise, self.edges = noise, edges
        self._used = 0 if edges is None else len(edges) - 1

    def normal(self) -> Any:
        import torch

        self._used += 1
        return torch.from_numpy(self.noise[self._used - 1].copy())

    def brownian(self, start: float, end: float) -> Any:
        import torch

        assert self.edges is not None
        weights = shares(self.edges, start, end)
        return torch.from_numpy(np.tensordot(weights, np.stack(self.noise[: len(weights)]), axes=1))


def nonlinear_network(rng: np.random.Generator, channels: int) -> Callable[[int, np.ndarray], np.ndarray]:
    """A random smooth nonlinear function of the evaluation's index and the network input [N, C, H, W]."""
    mix, shift = rng.normal(size=(channels, channels)), rng.normal(size=(channels, 1, 1))

    def evaluate(index: int, sample: np.ndarray) -> np.ndarray:
        mixed = np.einsum("oc,nchw->nohw", mix, sample)
        return np.tanh(mixed + shift) + 0.3 * np.cos(1.0 + 0.7 * index) * sample

    return evaluate


def residual(program: Program, prepared: PreparedScheduler, trace: LinearTrace, draws: Sequence[NoiseDraw]) -> float:
    """The largest difference of all network inputs and the result, each relative to its largest value; inf if not finite."""
    import torch

    rng = np.random.default_rng(len(trace.evaluations))
    latents = rng.normal(size=SHAPE)
    noise = [rng.normal(size=SHAPE) for _ in trace.drawn]
    network = nonlinear_network(rng, SHAPE[1])
    expected = drive(
        prepared,
        lambda k, sample: torch.from_numpy(network(k, sample.numpy())),
        torch.from_numpy(latents * trace.init_scale),
        PresetNoise(noise, trace.edges),
    )
    inputs: list[np.ndarray] = []

    def recorded(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        inputs.append(sample)
        return network(len(inputs) - 1, sample)

    result = run(program, recorded, latents, draw=noise_function(draws, noise), guidance_scale=1.0)
    pairs = zip([*inputs, result], [*(v.numpy() for v in expected.inputs), expected.samples[-1].numpy()], strict=True)
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return worst if np.isfinite(worst) else float("inf")
