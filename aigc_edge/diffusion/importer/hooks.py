"""What a scheduler's step calls out to: the source of its noise, its clipping, and changes of the sample between two steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class StepHooks(ABC):
    """What a step does besides linear arithmetic; all values are torch tensors of the sample's shape."""

    step: int = 0
    """Index of the running step, set by `drive`."""

    @abstractmethod
    def normal(self) -> Any:
        """Unit normal noise."""

    @abstractmethod
    def brownian(self, start: float, end: float) -> Any:
        """The increment of a Brownian path between two times, normalised to unit variance."""

    def between_steps(self, sample: Any) -> Any:
        """The sample that the next step gets instead of `sample`."""
        return sample

    def clamp(self, value: Any, low: float | None, high: float | None) -> Any:
        """`value` clipped to low … high."""
        return value.clamp(low, high)

    def threshold(self, value: Any, quantile: float, largest: float, plain: Callable[[Any], Any]) -> Any:
        """`value` after dynamic thresholding, which the scheduler itself computes by `plain`."""
        return plain(value)
