"""Fits a table: damped Gauss-Newton steps over random batches, from several initial tables, with early stopping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aigc_edge.tuning.newton import NormalEquations, linearise, linearise_evaluations, solve_result
from aigc_edge.tuning.table import CoefficientTable
from aigc_edge.tuning.task import Task

TRIALS = (0.1, 1.0, 10.0)  # factors of the damping that each step tries
DAMPING, LEAST, MOST = 1e-3, 1e-8, 10.0


class _Stop(Exception):
    """Ends a fit, from within an evaluation, with the best table so far."""


@dataclass(frozen=True)
class FitSettings:
    """Batches and steps: a few steps from every initial table, then steps from the best until they do not help any more."""

    try_batch: int = 32  # samples per step
    try_steps: int = 3
    batch: int = 64
    steps: int = 24
    patience: int = 6  # steps without a better validation error before the fit ends
    better: float = 0.995  # factor that counts as better: about 0.02 dB
    decay: tuple[float, float] = (0.5, 0.9)  # of the normal equations, at the first and at the last step


@dataclass
class FitState:
    """The state of a sequence of steps."""

    table: CoefficientTable
    damping: float = DAMPING
    equations: NormalEquations = field(default_factory=NormalEquations)
    previous: Task | None = None  # the batch of the last step
    error: float = np.inf  # on the validation samples


@dataclass
class Fit:
    """A fit to the samples of `train`; `table` is the best so far by the mean squared error on `validation`.

    `on_improved(table, error)` is called with every better table; the fit ends early when `should_stop()` becomes true.
    """

    train: Task
    validation: Task
    seed: int = 0
    settings: FitSettings = field(default_factory=FitSettings)
    on_improved: Callable[[CoefficientTable, float], None] = lambda table, error: None
    should_stop: Callable[[], bool] = lambda: False
    table: CoefficientTable | None = None
    error: float = np.inf
    history: list[float] = field(default_factory=list)  # validation error after each step

    def run(self, initial: Sequence[CoefficientTable]) -> CoefficientTable:
        """Fit from the best of the `initial` tables; the result is at least as good as any of them on `validation`."""
        self._rng = np.random.default_rng(self.seed)
        for table in initial:
            self._validate(table)
        self.train, self.validation = self._stoppable(self.train), self._stoppable(self.validation)
        try:
            tried = [self._walk(FitState(table), self.settings.try_steps, self.settings.try_batch) for table in initial]
            self._walk(min(tried, key=lambda state: state.error), self.settings.steps, self.settings.batch)
            assert self.table is not None
            self._validate(solve_result(self.train, self.table))
        except _Stop:
            pass
        assert self.table is not None, "a fit needs an initial table"
        return self.table

    def _stoppable(self, task: Task) -> Task:
        on_evaluated = task.on_evaluated

        def stop_or_go_on(count: int) -> None:
            on_evaluated(count)
            if self.should_stop():
                raise _Stop

        return replace(task, on_evaluated=stop_or_go_on)

    def _validate(self, table: CoefficientTable) -> float:
        error = self.validation.error(table)
        if error < self.error or self.table is None:
            self.table, self.error = table, error
            self.on_improved(table, error)
        return error

    def _walk(self, state: FitState, steps: int, batch: int) -> FitState:
        """Take up to `steps` steps over random batches, until the validation error does not improve any more."""
        patience, best = self.settings.patience, self._validate(state.table)
        low, high = self.settings.decay
        for index in range(steps):
            chosen = np.sort(self._rng.permutation(len(self.train))[:batch])
            decay = low + (high - low) * index / max(steps - 1, 1)
            self._step(state, self.train.take(chosen), decay)
            state.error = self._validate(state.table)
            self.history.append(state.error)
            patience = self.settings.patience if state.error < self.settings.better * best else patience - 1
            best = min(best, state.error)
            if not patience:
                break
        return state

    def _step(self, state: FitState, task: Task, decay: float) -> None:
        """Add the batch `task`, and take the step of the normal equations if it is better on this and the last batch."""
        model = linearise(task, state.table)
        state.equations.add(model, decay)
        low, high = task.path.low, task.path.high
        trials = [(state.damping * f, state.equations.step(model, state.damping * f, low, high)) for f in TRIALS]
        tests = [task] if state.previous is None else [task, state.previous]
        errors = [sum(test.error(trial) for test in tests) for _, trial in trials]
        current = model.error + sum(test.error(state.table) for test in tests[1:])
        best = int(np.argmin(errors))
        state.previous = task
        if errors[best] < current:
            state.damping, state.table = float(np.clip(trials[best][0], LEAST, MOST)), trials[best][1]
        else:
            state.damping = min(state.damping * 10, MOST)


def fit_evaluations(nfe: int, train: int, validation: int, initial: int, settings: FitSettings | None = None) -> int:
    """The most sample evaluations that a fit takes: of `nfe`, from `initial` tables, for these numbers of samples."""
    settings = settings or FitSettings()
    total = initial * validation * nfe + train * nfe
    for size, steps in ((settings.try_batch, initial * settings.try_steps), (settings.batch, settings.steps)):
        batch = min(train, size)
        total += steps * (batch * (linearise_evaluations(nfe) + 2 * (len(TRIALS) + 1) * nfe) + validation * nfe)
    return total
