"""Compares a program with the scheduler that it was made from, step by step, around a random nonlinear network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aigc_edge.diffusion.importer import calls
from aigc_edge.diffusion.importer.probe import Trace, shares
from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.reference import run

SHAPE = (2, 3, 4, 5)


class Given:
    """Noise that was drawn beforehand, and real clipping; one array a draw (or increment of a Brownian path)."""

    def __init__(self, noise: Sequence[np.ndarray], edges: np.ndarray | None) -> None:
        self.noise, self.edges = noise, edges
        self.now, self._used = 0, 0 if edges is None else len(edges) - 1

    def changed(self, sample: Any) -> Any:
        return sample

    def normal(self) -> Any:
        import torch

        self._used += 1
        return torch.from_numpy(self.noise[self._used - 1].copy())

    def interval(self, start: float, end: float) -> Any:
        import torch

        assert self.edges is not None
        weights = shares(self.edges, start, end)
        return torch.from_numpy(np.tensordot(weights, np.stack(self.noise[: len(weights)]), axes=1))

    def clamp(self, value: Any, low: float | None, high: float | None) -> Any:
        return value.clamp(low, high)

    def threshold(self, value: Any, quantile: float, largest: float, plain: Callable[[Any], Any]) -> Any:
        return plain(value)


def toy(rng: np.random.Generator, channels: int) -> Callable[[int, np.ndarray], np.ndarray]:
    """A network of its input [N, C, H, W] and the evaluation's index: smooth, bounded and not linear."""
    mix, shift = rng.normal(size=(channels, channels)), rng.normal(size=(channels, 1, 1))

    def evaluate(index: int, sample: np.ndarray) -> np.ndarray:
        mixed = np.einsum("oc,nchw->nohw", mix, sample)
        return np.tanh(mixed + shift) + 0.3 * np.cos(1.0 + 0.7 * index) * sample

    return evaluate


def residual(program: Program, ready: calls.Ready, trace: Trace, drawn: Sequence[Any]) -> float:
    """The largest difference of any network input or the result, relative to the largest number there; inf when not finite."""
    import torch

    rng = np.random.default_rng(len(trace.evaluations))
    latents = rng.normal(size=SHAPE)
    noise = [rng.normal(size=SHAPE) for _ in trace.drawn]
    network = toy(rng, SHAPE[1])
    source = Given(noise, trace.edges)
    theirs = calls.drive(
        ready,
        lambda k, given: torch.from_numpy(network(k, given.numpy())),
        torch.from_numpy(latents * trace.init_scale),
        source,
    )
    ours: list[np.ndarray] = []

    def recorded(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        ours.append(sample)
        return network(len(ours) - 1, sample)

    result = run(program, recorded, latents, draw=draw_of(drawn, noise), guidance_scale=1.0)
    pairs = zip([*ours, result], [*(v.numpy() for v in theirs.inputs), theirs.samples[-1].numpy()], strict=True)
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return worst if np.isfinite(worst) else float("inf")


def draw_of(drawn: Sequence[Any], noise: Sequence[np.ndarray]) -> Callable[[np.ndarray, int, tuple[int, ...]], np.ndarray]:
    """The `draw` of `reference.run` that makes the program's draws out of the scheduler's own `noise`."""
    weights = {d.number: d.weights for d in drawn}

    def draw(seeds: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
        total = np.zeros(shape)
        for own, weight in weights[index]:
            total += weight * noise[own]
        return total

    return draw
