"""Fits a table: Gauss-Newton with damping over growing batches, from several starts, watched on noise it does not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aigc_edge.tuning.newton import Memory, best_result, evaluations, slope
from aigc_edge.tuning.table import Table
from aigc_edge.tuning.task import Task

TRIALS = (0.1, 1.0, 10.0)  # of the damping, at each step
DAMPING, LEAST, MOST = 1e-3, 1e-8, 10.0


class _Enough(Exception):
    """Ends a fit, from within an evaluation, with the best table so far."""


@dataclass(frozen=True)
class Plan:
    """How long and on how much is fitted: short tries of every start, then steps from the best until they stop to help."""

    try_batch: int = 32  # samples of a step
    try_steps: int = 3
    batch: int = 64
    steps: int = 24
    patience: int = 6  # steps without a better watched error before it ends
    better: float = 0.995  # what counts as better: about 0.02 dB
    fade: tuple[float, float] = (0.5, 0.9)  # of the memory, at the first and at the last step


@dataclass
class State:
    """Where a path of steps stands."""

    table: Table
    damping: float = DAMPING
    memory: Memory = field(default_factory=Memory)
    before: Task | None = None  # the batch of the last step
    error: float = np.inf  # watched


@dataclass
class Fit:
    """The state of a fit: the best `table` by the mean squared error on `watch`.

    `keep` is told whenever it improves; when `enough()` becomes true, the fit ends with it.
    """

    train: Task
    watch: Task
    seed: int = 0
    plan: Plan = field(default_factory=Plan)
    keep: Callable[[Table, float], None] = lambda table, error: None
    enough: Callable[[], bool] = lambda: False
    table: Table | None = None
    error: float = np.inf
    history: list[float] = field(default_factory=list)  # watched error after each step of the final path

    def run(self, starts: Sequence[Table]) -> Table:
        """Fit from the best of `starts`; always returns a table at least as good as the best start on `watch`."""
        self._rng = np.random.default_rng(self.seed)
        for start in starts:
            self._look(start)
        self.train, self.watch = self._ending(self.train), self._ending(self.watch)
        try:
            tried = [self._walk(State(start), self.plan.try_steps, self.plan.try_batch) for start in starts]
            self._walk(min(tried, key=lambda state: state.error), self.plan.steps, self.plan.batch)
            self._settle()
        except _Enough:
            pass
        assert self.table is not None, "a fit needs a start"
        return self.table

    def _ending(self, task: Task) -> Task:
        before = task.spent

        def spent(count: int) -> None:
            before(count)
            if self.enough():
                raise _Enough

        return replace(task, spent=spent)

    def _look(self, table: Table) -> float:
        error = self.watch.error(table)
        if error < self.error or self.table is None:
            self.table, self.error = table, error
            self.keep(table, error)
        return error

    def _walk(self, state: State, steps: int, batch: int) -> State:
        """Steps over random batches, until the watched error stays."""
        patience, best = self.plan.patience, self._look(state.table)
        low, high = self.plan.fade
        for index in range(steps):
            chosen = np.sort(self._rng.permutation(len(self.train))[:batch])
            fade = low + (high - low) * index / max(steps - 1, 1)
            self._step(state, self.train.take(chosen), fade)
            state.error = self._look(state.table)
            self.history.append(state.error)
            patience = self.plan.patience if state.error < self.plan.better * best else patience - 1
            best = min(best, state.error)
            if not patience:
                break
        return state

    def _step(self, state: State, task: Task, fade: float) -> None:
        """Take `task` into memory and go where the memory says, as far as that is better on this and the last batch."""
        found = slope(task, state.table)
        state.memory.add(found, fade)
        low, high = task.path.low, task.path.high
        trials = [(state.damping * factor, state.memory.step(found, state.damping * factor, low, high)) for factor in TRIALS]
        tests = [task] if state.before is None else [task, state.before]
        errors = [sum(test.error(trial) for test in tests) for _, trial in trials]
        now = found.error + sum(test.error(state.table) for test in tests[1:])
        place = int(np.argmin(errors))
        state.before = task
        if errors[place] < now:
            state.damping, state.table = float(np.clip(trials[place][0], LEAST, MOST)), trials[place][1]
        else:
            state.damping = min(state.damping * 10, MOST)

    def _settle(self) -> None:
        """The last line of the best table by least squares over all samples: the result is linear in it."""
        assert self.table is not None
        self._look(best_result(self.train, self.table))


def cost(nfe: int, train: int, watch: int, starts: int, plan: Plan | None = None) -> int:
    """The most sample evaluations that a fit takes."""
    plan = plan or Plan()
    total = starts * watch * nfe + train * nfe
    for size, steps in ((plan.try_batch, starts * plan.try_steps), (plan.batch, plan.steps)):
        batch = min(train, size)
        total += steps * (batch * (evaluations(nfe) + 2 * (len(TRIALS) + 1) * nfe) + watch * nfe)
    return total
