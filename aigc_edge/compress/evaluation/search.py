"""The one budget loop: evaluates candidates until one holds a quality budget, or refuses with the most sensitive layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aigc_edge.errors import BudgetError

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True)
class Trial(Generic[C, R]):
    """A candidate that was evaluated, its result, and whether that held the budget."""

    candidate: C
    result: R
    held: bool


def search(
    candidates: Generator[C, bool, None],
    evaluate: Callable[[C], R],
    holds: Callable[[R], bool],
    refuse: Callable[[Any, Any], BudgetError],
) -> Trial[C, R]:
    """Evaluate candidates and return the last one that held the budget.

    `candidates` is a strategy: a generator that yields what to try next, is sent whether it held, and returns when nothing better
    is left to try. When none held, raises what `refuse` makes of the first and the last trial (None without any).
    """
    first: Trial[C, R] | None = None
    last: Trial[C, R] | None = None
    best: Trial[C, R] | None = None
    candidate = next(candidates, None)
    while candidate is not None:
        result = evaluate(candidate)
        last = Trial(candidate, result, holds(result))
        first, best = first or last, last if last.held else best
        try:
            candidate = candidates.send(last.held)
        except StopIteration:
            break
    if best is None:
        raise refuse(first, last)
    return best


def most_sensitive_layers(errors: Mapping[str, float], count: int = 3) -> str:
    """The layers with the largest squared errors, with their share of the sum, as part of a sentence."""
    total = sum(errors.values())
    if not 0 < total < math.inf:  # a layer that overflows alone says enough
        return ", ".join([name for name in errors if errors[name] == math.inf][:count]) or "none of them alone"
    worst = [name for name in sorted(errors, key=lambda name: -errors[name])[:count] if errors[name] > 0]
    return ", ".join(f"{name} ({100 * errors[name] / total:.0f} % of the error)" for name in worst)
