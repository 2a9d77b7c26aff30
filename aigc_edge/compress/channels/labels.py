"""Channels that can only be removed together, and the places in the graph that depend on their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """A place in the graph that depends on which channels are kept; `labels` [channels] are in its order.

    `kind` is "constant": input `place` of node `node` is cut along `axis`; "size": entry `axis` of that input is their number;
    "split": that input has the number of each of the parts, which begin at `starts`; "slice": the entries `axis` of the inputs 1
    and 2 are positions among them; "group": the attribute of that name is their number; "gather": what the node reads at `place`
    comes from outside, and is cut along `axis`.
    """

    kind: str
    node: int
    place: int
    axis: int
    labels: Ints
    starts: tuple[int, ...] = ()


class Labels:
    """A label for every traced channel, with which labels are joined or frozen (a union-find structure)."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._frozen: set[int] = set()
        self.sites: list[Site] = []
        self.producers: dict[int, Ints] = {}  # node → labels of its outputs
        self.consumers: dict[int, Ints] = {}  # node → labels of its inputs
        self.through: dict[int, Ints] = {}  # depthwise convolution → labels of its inputs, which are its outputs

    def new(self, count: int) -> Ints:
        """Labels for `count` channels."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, label: int) -> int:
        """The label that represents all that are joined with `label`."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def roots(self, labels: Ints) -> Ints:
        """The root of each label."""
        return np.array([self.root(int(label)) for label in labels], np.int64)

    def join(self, a: Ints, b: Ints) -> None:
        """Join channel i of `a` with channel i of `b`."""
        for first, second in zip(a.tolist(), b.tolist(), strict=True):
            self._parents[self.root(first)] = self.root(second)

    def freeze(self, labels: Ints) -> None:
        """Exclude these channels from pruning."""
        self._frozen.update(labels.tolist())

    def frozen(self) -> set[int]:
        """The roots that are excluded from pruning."""
        return {self.root(label) for label in self._frozen}

    def place(self, kind: str, node: int, place: int, axis: int, labels: Ints, starts: Any = ()) -> None:
        """Add a site."""
        self.sites.append(Site(kind, node, place, axis, labels, tuple(starts)))
