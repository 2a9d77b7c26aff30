"""Fits a table: Gauss-Newton with damping over growing batches, from several starts, watched on noise it does not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aigc_edge.tuning.newton import evaluations, slope
from aigc_edge.tuning.table import Table
from aigc_edge.tuning.task import Task

TRIALS = (0.1, 1.0, 10.0)  # of the damping, at each step
DAMPING, LEAST, MOST = 1e-3, 1e-8, 10.0
SMALLEST = 16  # samples of a batch
PATIENCE = 2  # steps over all samples without a better watched error before it ends
BETTER = 0.99  # what counts as better: about 0.05 dB


class _Enough(Exception):
    """Ends a fit, from within an evaluation, with the best table so far."""


@dataclass(frozen=True)
class Round:
    """A number of steps over random batches of some of the samples."""

    share: float
    steps: int


TRY, ROUNDS, LAST = Round(1 / 8, 3), (Round(1 / 4, 3), Round(1 / 2, 3)), Round(1.0, 6)


@dataclass
class Fit:
    """The state of a fit: the best `table` by the mean squared error on `watch`.

    `keep` is told whenever it improves; when `enough()` becomes true, the fit ends with it.
    """

    train: Task
    watch: Task
    seed: int = 0
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
            tried = [self._steps(start, TRY, DAMPING) for start in starts]
            _, table, damping = min(tried, key=lambda found: found[0])
            for round in ROUNDS:
                _, table, damping = self._steps(table, round, damping)
            self._polish(damping)
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

    def _steps(self, table: Table, round: Round, damping: float) -> tuple[float, Table, float]:
        """(watched error, table, damping) of the best table of a round from `table`."""
        best = (self._look(table), table, damping)
        size = min(len(self.train), max(SMALLEST, round_up(len(self.train) * round.share)))
        for _ in range(round.steps):
            chosen = np.sort(self._rng.permutation(len(self.train))[:size])
            table, damping, _ = self._step(self.train.take(chosen), table, damping)
            error = self._look(table)
            self.history.append(error)
            if error < best[0]:
                best = (error, table, damping)
        return best

    def _polish(self, damping: float) -> None:
        """Steps over all samples until the watched error gets no better."""
        assert self.table is not None
        table, patience = self.table, PATIENCE
        for _ in range(LAST.steps):
            before = self.error
            table, damping, moved = self._step(self.train, table, damping)
            self.history.append(self._look(table))
            patience = PATIENCE if self.error < BETTER * before else patience - 1
            if not (moved and patience):
                break

    def _step(self, task: Task, table: Table, damping: float) -> tuple[Table, float, bool]:
        """The table after a step that lowers the error on `task`, the damping to go on with, and whether there was one."""
        found = slope(task, table)
        low, high = task.path.low, task.path.high
        trials = [(damping * factor, found.step(table, damping * factor, low, high)) for factor in TRIALS]
        errors = [task.error(trial) for _, trial in trials]
        place = int(np.argmin(errors))
        if errors[place] < found.error:
            return trials[place][1], float(np.clip(trials[place][0], LEAST, MOST)), True
        return table, min(damping * 100, MOST), False


def round_up(value: float) -> int:
    """Samples are evaluated in batches: no part of one is cheaper than the whole."""
    return int(-(-value // SMALLEST) * SMALLEST)


def cost(nfe: int, train: int, watch: int, starts: int) -> int:
    """The most sample evaluations that a fit takes."""
    total = 0
    for round, times in ((TRY, starts), *((r, 1) for r in ROUNDS), (LAST, 1)):
        size = min(train, max(SMALLEST, round_up(train * round.share)))
        step = size * (evaluations(nfe) + len(TRIALS) * nfe) + watch * nfe
        total += times * (round.steps * step + watch * nfe)
    return total
