"""Progress of long tasks in stages: current stage, completed fraction, estimated seconds left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str, float, float], None]


class Clock:
    """Reports `report(what, done, seconds_left)`, `done` in 0 … 1, for stages with approximately known costs.

    `stages` gives the cost of each stage in any unit; the time left is extrapolated from the completed fraction, so only
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
        """Start `stage`, completing the previous one."""
        self._before += self._costs.get(self._stage, 0.0)
        self._stage = stage
        self.advance(0.0)

    def advance(self, share: float) -> None:
        """Report that `share` (0 … 1) of the current stage is completed."""
        if self._report is None:
            return
        done = min(1.0, (self._before + self._costs.get(self._stage, 0.0) * share) / self._total)
        elapsed = self._now() - self._began
        left = elapsed / done * (1 - done) if done > 0.02 else self._total * (1 - done)
        self._report(self._stage, done, left)

    def within(self, first: float, last: float) -> Callable[[str, int, int], None]:
        """Return `report(what, done, total)` for work of unknown length within `first` … `last` of the current stage.

        Every step takes 60 % of the remainder, so progress is monotonic and never exceeds `last`.
        """
        begin = reached = first
        current = ""

        def report(what: str, done: int, total: int) -> None:
            nonlocal begin, reached, current
            if what != current:
                begin, current = reached, what
            reached = begin + (last - begin) * 0.6 * done / max(total, 1)
            self.advance(reached)

        return report

    def finish(self) -> None:
        """Report completion."""
        if self._report is not None:
            self._report("done", 1.0, 0.0)
