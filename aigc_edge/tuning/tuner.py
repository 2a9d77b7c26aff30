"""Tunes programs for any network: many-step samples once, then a table for each number of evaluations."""

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
from aigc_edge.metrics.paired import peak_of
from aigc_edge.tuning.conversion import MAX_NFE, from_program, to_program
from aigc_edge.tuning.fit import Fit, FitSettings, fit_evaluations
from aigc_edge.tuning.initial_tables import HIGHEST, MAX_TABLES, initial_tables
from aigc_edge.tuning.path import NoisePath
from aigc_edge.tuning.standard import StandardProgram, standard_programs
from aigc_edge.tuning.table import CoefficientTable
from aigc_edge.tuning.task import Images, Task

REFERENCE, REFERENCE_STEPS = "unipc", 64
INITIAL = 3  # tables that a fit begins from
RANKED = 32  # samples that programs and initial tables are ranked on
FINALISTS = 4  # standard programs that are measured on the held-out noise
_SAME = 0.3  # in log noise: ends of two noise ranges that are closer count as equal
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class NoiseSamples:
    """Unit normal latents [N, ...] float32 and, for a conditional network, the class of each sample."""

    latents: Images
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class TunedProgram:
    """A tuned program with its table, the best standard program, and the mean squared errors of both on the held-out noise."""

    program: Program
    table: CoefficientTable
    best: StandardProgram
    error: float
    best_error: float


def decibels(error: float, task: Task) -> float:
    """PSNR in dB of a mean squared error on `task`; the peak is the range of its own many-step samples, clamped as they are
    compared. Infinite for no error, −infinite where the peak is zero."""
    peak = peak_of(task.clamped(task.target))
    if error == 0:
        return math.inf
    return 20 * math.log10(peak) - 10 * math.log10(error) if peak > 0 else -math.inf


def tuning_evaluations(schedule: Mapping[str, Any], nfe: int, training: int, held_out: int) -> tuple[int, int]:
    """The most sample evaluations that the many-step samples, and a table of `nfe` evaluations, take."""
    validation = _validation_samples(training)
    ranked = (len(standard_programs(schedule, nfe)) + INITIAL + MAX_TABLES) * min(RANKED, training - validation) * nfe
    fitted = fit_evaluations(nfe, training - validation, validation, INITIAL)
    return (training + held_out) * REFERENCE_STEPS, ranked + fitted + (FINALISTS + 1) * nfe * held_out


def _validation_samples(training: int) -> int:
    return max(2, training // 4)


class Tuner:
    """Many-step samples of one network from training and from held-out noise, and the fits to them.

    `network(sample [M, ...], timestep [M], classes [M] or None)` → [M, ...] is any network trained on the noise levels of
    `schedule` (a schedule dict, see `resolve`). A quarter of the `training` noise is for validation: a fit stops when it does not
    improve there. Figures are measured on the `held_out` noise. `on_evaluated(n)` is called after the evaluation of n samples.
    Raises AigcEdgeError (ProgramError) for too few samples, guidance without classes, and schedules that cannot be tuned.
    """

    def __init__(
        self,
        network: NetworkFunction,
        schedule: Mapping[str, Any],
        training: NoiseSamples,
        held_out: NoiseSamples,
        *,
        guidance_scale: float = 1.0,
        null_class: int | None = None,
        limits: tuple[float, float] | None = (-1.0, 1.0),
        reference_steps: int = REFERENCE_STEPS,
        seed: int = 0,
        on_evaluated: Callable[[int], None] = lambda n: None,
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
        self.reference = build(schedule, REFERENCE, reference_steps, guidance_scale=guidance_scale)
        self._network, self._null_class, self._on_evaluated = network, null_class, on_evaluated
        task = self._task(training)
        validation = _validation_samples(len(training))
        self.train, self.validation = task.take(slice(validation, None)), task.take(slice(None, validation))
        self.held_out = self._task(held_out)

    def _task(self, noise: NoiseSamples) -> Task:
        task = Task(
            self._network,
            self.path,
            noise.latents,
            noise.latents,
            noise.classes,
            self._null_class,
            self.guidance_scale,
            self.limits,
            on_evaluated=self._on_evaluated,
        )
        target = np.concatenate([self.sample(self.reference, batch) for batch in task.batches()])
        if not np.isfinite(target).all():
            raise AigcEdgeError("the many-step samples hold NaN or infinity: the network is broken, or the guidance too strong")
        return replace(task, target=target)

    def sample(self, program: Program, batch: Task) -> Images:
        """The samples float32 [N, ...] of `program` from the latents of `batch`."""

        def counted(sample: Images, time: Images, classes: Classes | None) -> Images:
            output = self._network(sample, time, classes)
            self._on_evaluated(len(batch))
            return output

        classes: dict[str, Any] = {"classes": batch.classes, "null_class": self._null_class}
        return np.asarray(reference.run(program, counted, batch.latents, dtype=np.float32, **classes), np.float32)

    def error(self, program: Program) -> float:
        """Mean squared error of a program on the held-out noise."""
        return self._error(program, self.held_out)

    def _error(self, program: Program, task: Task) -> float:
        with np.errstate(all="ignore"):  # a solver may well diverge at few evaluations
            residuals = np.concatenate([batch.residual(self.sample(program, batch)).ravel() for batch in task.batches()])
            error = float(np.square(residuals, dtype=np.float64).mean())
        return error if math.isfinite(error) else math.inf

    def rank(self, nfe: int) -> list[StandardProgram]:
        """The standard programs of `nfe` evaluations, the best first, by their error on some of the training noise."""
        few = self.train.take(slice(None, RANKED))
        ranked = [(self._error(one.program, few), index, one) for index, one in enumerate(self._standard(nfe))]
        return [one for _, _, one in sorted(ranked, key=lambda entry: entry[:2])]

    def _initial(self, nfe: int, ranked: list[StandardProgram]) -> list[CoefficientTable]:
        """The best tables to begin with: of the best standard programs and those on other noise ranges."""
        few = self.train.take(slice(None, RANKED))
        tables = list(initial_tables(self.path, nfe))
        for one in ranked[:INITIAL]:
            with contextlib.suppress(ProgramError):  # its levels are not on the path
                tables.append(from_program(one.program, self.path))
        errors = [few.error(table) for table in tables]
        chosen: list[CoefficientTable] = []
        for index in np.argsort(errors, kind="stable"):
            ends = _range(tables[index])
            if all(np.abs(ends - _range(other)).max() > _SAME for other in chosen):  # not all near one local minimum
                chosen.append(tables[index])
        return chosen[:INITIAL]

    def _standard(self, nfe: int) -> list[StandardProgram]:
        if not 1 <= nfe <= MAX_NFE:
            raise AigcEdgeError(f"{nfe} evaluations were asked for: a tuned table has 1 to {MAX_NFE}")
        programs = standard_programs(self.schedule, nfe, self.guidance_scale)
        if not programs:
            raise AigcEdgeError(f"no solver makes {nfe} evaluations on the schedule of this network: choose another number")
        return programs

    def tune(
        self,
        nfe: int,
        *,
        name: str | None = None,
        resume_from: CoefficientTable | None = None,
        on_improved: Callable[[CoefficientTable, float], None] = lambda table, psnr: None,
        should_stop: Callable[[], bool] = lambda: False,
        settings: FitSettings | None = None,
    ) -> TunedProgram:
        """The tuned program of `nfe` evaluations, fitted from `resume_from` or else from the best standard solvers.

        `on_improved(table, psnr)` is called with every better table and its PSNR on the validation noise; the fit ends early when
        `should_stop()` becomes true. Raises AigcEdgeError for an `nfe` outside 1 … 15.
        """
        ranked = self.rank(nfe)
        initial = [resume_from] if resume_from is not None else self._initial(nfe, ranked)

        def improved(table: CoefficientTable, error: float) -> None:
            on_improved(table, decibels(error, self.validation))

        fit = Fit(self.train, self.validation, self.seed, settings or FitSettings(), improved, should_stop)
        table = fit.run(initial)
        program = to_program(table, self.path, name or f"tuned-{nfe}", self.guidance_scale)
        error = self.error(program)
        best_error, index = min((self.error(one.program), index) for index, one in enumerate(ranked[:FINALISTS]))
        best = ranked[index]
        meta = {
            "solver": "tuned",
            "steps": nfe,
            "psnr": round(decibels(error, self.held_out), 3),
            "best_standard": best.name,
            "best_standard_psnr": round(decibels(best_error, self.held_out), 3),
            "n": len(self.held_out),
            "trained_on": len(self.train) + len(self.validation),
            "guidance_scale": self.guidance_scale,
            "reference": self.reference.name,
            "seed": self.seed,
        }
        return TunedProgram(replace(program, meta=meta), table, best, error, best_error)


def _range(table: CoefficientTable) -> NDArray[np.float64]:
    return np.minimum(table.levels[[0, -1]], HIGHEST)
