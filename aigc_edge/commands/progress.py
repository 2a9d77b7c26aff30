"""Progress of long-running commands on a terminal and in a log."""

from __future__ import annotations

import sys


class Progress:
    """Prints the current stage: one overwritten line on a terminal, one line per stage in a log."""

    def __init__(self) -> None:
        self._stage = ""
        self._terminal = sys.stderr.isatty()

    def __call__(self, what: str, done: float, seconds_left: float) -> None:
        if self._terminal:
            left = f", about {seconds_left:.0f} s left" if 0 < seconds_left < 1e6 else ""
            print(f"\r\x1b[2K{done:4.0%} {what}{left}", end="\n" if done >= 1 else "", file=sys.stderr, flush=True)
        elif what != self._stage:
            print(what, file=sys.stderr, flush=True)
        self._stage = what
