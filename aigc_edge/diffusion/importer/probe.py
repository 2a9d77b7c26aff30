"""Runs a diffusers scheduler on unit vectors, so that each sample is a vector of coefficients over all inputs of the loop.

A scheduler is linear in the first sample, the network's outputs, the clipped D and its noise draws; the coefficients depend on
its configuration alone. One run of its loop on a basis of these inputs therefore determines its whole table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aigc_edge.diffusion.importer.drive import Evaluation, SchedulerRun, drive
from aigc_edge.diffusion.importer.hooks import StepHooks
from aigc_edge.diffusion.importer.prepared import PreparedScheduler
from aigc_edge.diffusion.schedules import Level
from aigc_edge.errors import ProgramError

Clip = dict[str, tuple[float, float]]  # a row's clip or threshold, empty for none
NOISES = 3  # columns reserved for the draws of a step; no scheduler of diffusers draws more than two


@dataclass
class LinearTrace:
    """A scheduler's loop of E evaluations, as coefficients over `width` = 2 E + clipped + draws inputs.

    The inputs are the first sample, F of each evaluation, D of each that the scheduler clips, changes of the sample between two
    steps (as inpainting makes them), and the noise draws.
    """

    evaluations: list[Evaluation]
    samples: np.ndarray  # [E + 1, width]: the sample of each evaluation, and the result
    inputs: np.ndarray  # [E, width]: the network's input
    drawn: list[int]  # the evaluation that each noise draw follows
    edges: np.ndarray | None  # times between the increments of a Brownian path, if the noise comes from one
    init_scale: float
    clips: list[Clip] = field(default_factory=list)
    denoised: list[tuple[float, float] | None] = field(default_factory=list)  # D = c_skip · sample + c_out · F, where known
    levels: list[Level | None] = field(default_factory=list)  # of the samples, where known

    @property
    def clipped(self) -> list[int]:
        """The evaluations whose D the scheduler clips, in the order of their columns."""
        return [k for k, clip in enumerate(self.clips) if clip]

    @property
    def first_noise(self) -> int:
        """Column of the first draw."""
        return 2 * len(self.evaluations) + len(self.clipped)

    def clipped_column(self, evaluation: int) -> int | None:
        """Column of the clipped D of an evaluation, None where it is not clipped."""
        return 1 + len(self.evaluations) + self.clipped.index(evaluation) if self.clips[evaluation] else None

    def change_column(self, evaluation: int) -> int:
        """Column of the change of the sample before an evaluation other than the first."""
        return len(self.evaluations) + len(self.clipped) + evaluation

    def noises(self, evaluation: int) -> list[int]:
        """Columns of the draws that follow an evaluation."""
        return [self.first_noise + j for j, e in enumerate(self.drawn) if e == evaluation]


class Basis(StepHooks):
    """Step hooks that return one unit vector per network output, clipped sample and draw; tensors [1, width, 1, 1] float64."""

    def __init__(self, evaluations: int, edges: np.ndarray | None = None) -> None:
        self.evaluations, self.edges = evaluations, edges
        self.first_noise = 3 * evaluations
        self.width = self.first_noise + (len(edges) if edges is not None else 0) + NOISES * evaluations + 8
        self.drawn = [] if edges is None else [-1] * (len(edges) - 1)
        self.queries: list[tuple[float, float]] = []
        self.clips: list[Clip] = [{} for _ in range(evaluations)]
        self.clipped: dict[int, np.ndarray] = {}

    def unit(self, column: int) -> Any:
        import torch

        if column >= self.width:
            raise ProgramError(f"the scheduler draws more than {NOISES} noises a step, which no table can hold")
        vector = torch.zeros(1, self.width, 1, 1, dtype=torch.float64)
        vector[0, column] = 1.0
        return vector

    def output(self, evaluation: int, sample: Any) -> Any:
        return self.unit(1 + evaluation)

    def between_steps(self, sample: Any) -> Any:
        return sample + self.unit(1 + 2 * self.evaluations + self.step)

    def normal(self) -> Any:
        self.drawn.append(self.step)
        return self.unit(self.first_noise + len(self.drawn) - 1)

    def brownian(self, start: float, end: float) -> Any:
        """The normalised increment of a Brownian path between two times, composed of increments between the edges."""
        import torch

        self.queries.append((start, end))
        if self.edges is None:
            return torch.zeros(1, self.width, 1, 1, dtype=torch.float64)
        share = shares(self.edges, start, end)
        for j in np.flatnonzero(share):
            self.drawn[j] = self.step if self.drawn[j] < 0 else self.drawn[j]
        vector = np.zeros((1, self.width, 1, 1))
        vector[0, self.first_noise : self.first_noise + len(share), 0, 0] = share
        return torch.from_numpy(vector)

    def clamp(self, value: Any, low: float | None, high: float | None) -> Any:
        if low is None or high is None:
            raise ProgramError("the scheduler clips on one side only: a row clips D on both")
        return self._limited(value, {"clip": (low, high)})

    def threshold(self, value: Any, quantile: float, largest: float, plain: Callable[[Any], Any]) -> Any:
        if largest <= 1:  # it is also the smallest bound: a plain clip
            return self.clamp(value, -largest, largest) / largest
        return self._limited(value, {"threshold": (quantile, largest)})

    def _limited(self, value: Any, clip: Clip) -> Any:
        if self.clips[self.step]:
            raise ProgramError("the scheduler clips more than once in a step: a row clips D once")
        self.clips[self.step] = clip
        self.clipped[self.step] = value.numpy().ravel().copy()
        return self.unit(1 + self.evaluations + self.step)


def shares(edges: np.ndarray, start: float, end: float) -> np.ndarray:
    """Weights of the unit increments between `edges` in the normalised increment from `start` to `end`."""
    low, high = np.abs(edges - min(start, end)).argmin(), np.abs(edges - max(start, end)).argmin()
    widths = np.diff(edges) * ((np.arange(len(edges) - 1) >= low) & (np.arange(len(edges) - 1) < high))
    return np.sqrt(widths / widths.sum()) * (1.0 if start > end else -1.0)


def _edges(queries: list[tuple[float, float]]) -> np.ndarray:
    # The same noise level computed in two ways in float32 is one edge.
    times = np.unique(queries)
    return times[np.append(True, np.diff(times) > 1e-5 * np.maximum(np.abs(times[1:]), 1e-6))]


def probe(prepared: PreparedScheduler) -> LinearTrace:
    """The trace of a scheduler's loop; raises ProgramError where no table can reproduce the scheduler."""
    edges = None
    while True:
        basis = Basis(len(prepared.timesteps), edges)
        run = drive(prepared, basis.output, basis.unit(0) * prepared.init_scale, basis)
        if not basis.queries or edges is not None:
            return _trace(run, basis, prepared.init_scale)
        edges = _edges(basis.queries)


def _trace(run: SchedulerRun, basis: Basis, scale: float) -> LinearTrace:
    count, used = basis.evaluations, basis.first_noise + len(basis.drawn)
    samples, inputs = (np.stack([v.numpy().ravel() for v in vs]) for vs in (run.samples, run.inputs))
    if not (np.isfinite(samples).all() and np.isfinite(inputs).all()):
        raise ProgramError("the scheduler computes numbers that are not finite with this configuration")
    denoised = [None if v is None else _split(v.numpy().ravel(), samples[k], 1 + k) for k, v in enumerate(run.denoised)]
    for k, value in basis.clipped.items():
        denoised[k] = _split(value, samples[k], 1 + k, 0.0)
        if denoised[k] is None:
            raise ProgramError("the scheduler clips something other than the denoised sample of a row: switch its clipping off")
    columns = [*range(1 + count), *(1 + count + k for k in sorted(basis.clipped)), *range(1 + 2 * count, used)]
    table = samples[:, columns], inputs[:, columns]
    return LinearTrace(run.evaluations, *table, basis.drawn, basis.edges, scale, basis.clips, denoised)


def _split(value: np.ndarray, sample: np.ndarray, column: int, least: float = 1e-6) -> tuple[float, float] | None:
    """(c_skip, c_out) of value = c_skip · sample + c_out · unit[column], None when it is no such sum, or c_out below `least`."""
    c_out = float(value[column])
    rest = value.copy()
    rest[column] = 0.0
    c_skip = float(rest @ sample / (sample @ sample))
    fits = np.abs(rest - c_skip * sample).max() <= 1e-9 * np.abs(value).max()
    return (c_skip, c_out) if fits and abs(c_out) >= least else None
