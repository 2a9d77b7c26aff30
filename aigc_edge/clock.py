"""Progress of long work in stages: which stage it is, how far, and how many seconds are left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str, float, float], None]


class Clock:
    """Reports `report(what, done, seconds_left)`, `done` in 0 … 1, for stages whose rough costs are known beforehand.

    `stages` gives the cost of each stage in any unit; the time left follows from the time that the finished share took, so only
    the ratios of the costs matter.
    """

    def __init__(
        self, stages: Mapping[str, float], report: Progress | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._costs = dict(stages)
        self._total = sum(self._costs.values()) or 1.0
        self._report = report
        self._now = now
        self._began = now()
        self._before = 0.0  # cost of the finished stages
        self._stage = ""

    def start(self, stage: str) -> None:
        """Enter `stage`; the one before it is finished."""
        self._before += self._costs.get(self._stage, 0.0)
        self._stage = stage
        self.advance(0.0)

    def advance(self, share: float) -> None:
        """Say that `share` (0 … 1) of the current stage is done."""
        if self._report is None:
            return
        done = min(1.0, (self._before + self._costs.get(self._stage, 0.0) * share) / self._total)
        elapsed = self._now() - self._began
        left = elapsed / done * (1 - done) if done > 0.02 else self._total * (1 - done)
        self._report(self._stage, done, left)

    def within(self, first: float, last: float) -> Callable[[str, int, int], None]:
        """A `tell(what, done, total)` for work that fills `first` … `last` of the current stage, in an unknown number of steps.

        Every step takes 60 % of what is left, so the share only grows and never passes `last`.
        """
        begin = reached = first
        current = ""

        def tell(what: str, done: int, total: int) -> None:
            nonlocal begin, reached, current
            if what != current:
                begin, current = reached, what
            reached = begin + (last - begin) * 0.6 * done / max(total, 1)
            self.advance(reached)

        return tell

    def finish(self) -> None:
        """Everything is done."""
        if self._report is not None:
            self._report("done", 1.0, 0.0)
