"""Interleaved timing: every round runs every configuration once, and each round begins with another one."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def rotation(names: Sequence[T], turn: int) -> list[T]:
    """`names`, begun at another place each round; odd rounds run backwards, so that no one always follows the same other."""
    start = (turn // 2) % len(names)
    order = [*names[start:], *names[:start]]
    return order[::-1] if turn % 2 else order


def interleaved(
    calls: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    warmup: int,
    after: Callable[[str], None] = lambda name: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """Seconds of each call in each round. A call is given its round's number; warm-up rounds have negative ones and are not kept.

    The garbage collector is off while a call runs and runs between rounds. `after(name)` is called behind each timed call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-warmup, rounds):
            gc.collect()
            for name in rotation(names, turn + warmup):
                call = calls[name]
                started = time.perf_counter()
                call(turn)
                elapsed = time.perf_counter() - started
                if turn >= 0:
                    seconds[name].append(elapsed)
                    after(name)
            progress(turn + warmup + 1, rounds + warmup)
    finally:
        if enabled:
            gc.enable()
    return seconds
