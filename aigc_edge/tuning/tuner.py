"""Tunes tables for any network: many-step samples once, then a table for each number of evaluations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import Program, build, reference
from aigc_edge.diffusion.reference import NetworkFunction
from aigc_edge.errors import AigcEdgeError, ProgramError
from aigc_edge.tuning import fit
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.roll import MAX_NFE, roll
from aigc_edge.tuning.standard import Standard, standard
from aigc_edge.tuning.starts import HIGHEST, MOST, starts
from aigc_edge.tuning.table import Table, unroll
from aigc_edge.tuning.task import Images, Task

REFERENCE, REFERENCE_STEPS = "unipc", 64
STARTS = 3  # standard solvers that a fit begins from
RANKED = 32  # samples that the starts are compared on
_SAME = 0.3  # in log noise: ends of a range that are closer count as the same
FINALISTS = 4  # of them are measured on the held-out noise
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Noise:
    """Unit normal latents [N, ...] float32 and, for a conditional network, a class for each: one's own, not shared parts."""

    latents: Images
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Tuned:
    """A tuned program, and the mean squared errors on the held-out noise that stand in its `meta` as PSNR."""

    program: Program
    table: Table
    best: Standard
    error: float
    best_error: float


def decibels(error: float, limits: tuple[float, float] | None) -> float:
    """PSNR of a mean squared error; samples without limits are taken to span [-1, 1]."""
    low, high = limits or (-1.0, 1.0)
    return math.inf if error == 0 else 20 * math.log10(high - low) - 10 * math.log10(error)


def cost(schedule: Mapping[str, Any], nfe: int, training: int, held_out: int) -> tuple[int, int]:
    """The most sample evaluations that the many-step samples and a table of `nfe` evaluations take."""
    watched = _watched(training)
    ranked = (len(standard(schedule, nfe)) + STARTS + MOST) * min(RANKED, training - watched) * nfe
    fitted = fit.cost(nfe, training - watched, watched, STARTS)
    return (training + held_out) * REFERENCE_STEPS, ranked + fitted + (FINALISTS + 1) * nfe * held_out


def _watched(training: int) -> int:
    return max(2, training // 4)


class Tuner:
    """Many-step samples of one network from training and from held-out noise, and the fits to them.

    `network(sample [M, ...], timestep [M], classes [M] or None)` → [M, ...] is any network whose noise levels `schedule` (a
    bundle's dict, see `resolve`) describes. A quarter of the `training` noise only watches: a fit stops when it gets no better
    there. `held_out` noise gives the figures. `spent(n)` is called after n evaluated samples. Raises
    AigcEdgeError (ProgramError) where there is too little noise, no class where guidance needs one, or no such schedule.
    """

    def __init__(
        self,
        network: NetworkFunction,
        schedule: Mapping[str, Any],
        training: Noise,
        held_out: Noise,
        *,
        guidance_scale: float = 1.0,
        null_class: int | None = None,
        limits: tuple[float, float] | None = (-1.0, 1.0),
        reference_steps: int = REFERENCE_STEPS,
        seed: int = 0,
        spent: Callable[[int], None] = lambda n: None,
    ) -> None:
        if len(training) < 8 or len(held_out) < 2:
            raise AigcEdgeError(
                f"{len(training)} training and {len(held_out)} held-out samples: give at least 8 and 2, hundreds to tune well"
            )
        if guidance_scale != 1.0 and (null_class is None or training.classes is None or held_out.classes is None):
            raise AigcEdgeError("guidance needs a class for each sample and the null class: give both, or a guidance scale of 1")
        self.guidance_scale, self.seed, self.limits = guidance_scale, seed, limits
        self.schedule = dict(schedule)
        self.path = NoisePath(schedule, reference_steps)
        self.many = build(schedule, REFERENCE, reference_steps, guidance_scale=guidance_scale)
        self._network, self._null_class, self._spent = network, null_class, spent
        taught = self._task(training)
        watched = _watched(len(training))
        self.train, self.watch = taught.take(slice(watched, None)), taught.take(slice(None, watched))
        self.held_out = self._task(held_out)

    def _task(self, noise: Noise) -> Task:
        task = Task(
            self._network,
            self.path,
            noise.latents,
            noise.latents,
            noise.classes,
            self._null_class,
            self.guidance_scale,
            self.limits,
            spent=self._spent,
        )
        made = np.concatenate([self.sample(self.many, part) for part in task.parts()])
        if not np.isfinite(made).all():
            raise AigcEdgeError("the many-step samples hold NaN or infinity: the network is broken, or the guidance too strong")
        return replace(task, target=made)

    def sample(self, program: Program, part: Task) -> Images:
        """The samples float32 [N, ...] that the rows of `program` make of the latents of `part`."""

        def counted(sample: Images, time: Images, classes: Classes | None) -> Images:
            found = self._network(sample, time, classes)
            self._spent(len(part))
            return found

        made = reference.run(program, counted, part.latents, classes=part.classes, null_class=self._null_class, dtype=np.float32)
        return np.asarray(made, np.float32)

    def error(self, program: Program) -> float:
        """Mean squared error of a program's own rows on the held-out noise."""
        return self._error(program, self.held_out)

    def _error(self, program: Program, task: Task) -> float:
        with np.errstate(all="ignore"):  # a solver may well leave the numbers at few evaluations
            off = np.concatenate([part.residual(self.sample(program, part)).ravel() for part in task.parts()])
            error = float(np.square(off, dtype=np.float64).mean())
        return error if math.isfinite(error) else math.inf

    def rank(self, nfe: int) -> list[Standard]:
        """The standard solvers of `nfe` evaluations, the best first, by their error on some of the training noise."""
        few = self.train.take(slice(None, RANKED))
        found = [(self._error(one.program, few), place, one) for place, one in enumerate(self._standard(nfe))]
        return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])]

    def _starts(self, nfe: int, ranked: list[Standard]) -> list[Table]:
        """The best tables to begin with: of the best standard solvers and those on other noise ranges."""
        few = self.train.take(slice(None, RANKED))
        tables = list(starts(self.path, nfe))
        for one in ranked[:STARTS]:
            with contextlib.suppress(ProgramError):  # told levels that a table cannot be told
                tables.append(unroll(one.program, self.path))
        errors = [few.error(table) for table in tables]
        chosen: list[Table] = []
        for place in np.argsort(errors, kind="stable"):
            ends = _range(tables[place])
            if all(np.abs(ends - _range(other)).max() > _SAME for other in chosen):  # not all from one valley
                chosen.append(tables[place])
        return chosen[:STARTS]

    def _standard(self, nfe: int) -> list[Standard]:
        if not 1 <= nfe <= MAX_NFE:
            raise AigcEdgeError(f"{nfe} evaluations were asked for: a tuned table has 1 to {MAX_NFE}")
        found = standard(self.schedule, nfe, self.guidance_scale)
        if not found:
            raise AigcEdgeError(f"no solver makes {nfe} evaluations on the schedule of this network: choose another number")
        return found

    def tune(
        self,
        nfe: int,
        *,
        name: str | None = None,
        before: Table | None = None,
        keep: Callable[[Table, float], None] = lambda table, error: None,
        enough: Callable[[], bool] = lambda: False,
        plan: fit.Plan | None = None,
    ) -> Tuned:
        """The tuned program of `nfe` evaluations; a table from `before` is gone on with instead of the standard solvers.

        `keep(table, watched PSNR)` is called whenever a better table was found; `enough()` may end the search early. Raises
        AigcEdgeError for an `nfe` outside 1 … 15.
        """
        ranked = self.rank(nfe)
        begin = [before] if before is not None else self._starts(nfe, ranked)

        def told(table: Table, error: float) -> None:
            keep(table, decibels(error, self.limits))

        table = fit.Fit(self.train, self.watch, self.seed, plan or fit.Plan(), told, enough).run(begin)
        rolled = roll(table, self.path, name or f"tuned-{nfe}", self.guidance_scale)
        error = self.error(rolled)
        rivals = [(self.error(one.program), place) for place, one in enumerate(ranked[:FINALISTS])]
        best_error, place = min(rivals)
        best = ranked[place]
        meta = {
            "solver": "tuned",
            "steps": nfe,
            "psnr": round(decibels(error, self.limits), 3),
            "best_standard": best.name,
            "best_standard_psnr": round(decibels(best_error, self.limits), 3),
            "n": len(self.held_out),
            "trained_on": len(self.train) + len(self.watch),
            "guidance_scale": self.guidance_scale,
            "reference": self.many.name,
            "seed": self.seed,
        }
        return Tuned(replace(rolled, meta=meta), table, best, error, best_error)


def _range(table: Table) -> NDArray[np.float64]:
    return np.minimum(table.levels[[0, -1]], HIGHEST)


def tune_network(
    network: NetworkFunction, schedule: Mapping[str, Any], nfe: int, training: Noise, held_out: Noise, **options: Any
) -> Program:
    """The tuned program of `nfe` evaluations for any network callable; see `Tuner`, whose options it takes, and `Tuner.tune`."""
    return Tuner(network, schedule, training, held_out, **options).tune(nfe).program
