"""Minimum cuts: the partition of a small graph's nodes into two sides with the least cost of the edges between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

INFINITE = 1 << 60


class MinimumCut:
    """A directed graph with edge costs; the cost of an edge counts if it leads from the source's side to the sink's.

    Dinic's algorithm with integer costs, so that no tolerance is needed.
    """

    def __init__(self, source: Hashable, sink: Hashable) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._edges: list[list[int]] = []  # per node: indices into _heads and _capacity
        self._heads: list[int] = []
        self._capacity: list[int] = []  # residual capacity; edge e ^ 1 is the reverse of e
        self._source, self._sink = self._number(source), self._number(sink)

    def _number(self, node: Hashable) -> int:
        if node not in self._numbers:
            self._numbers[node] = len(self._edges)
            self._edges.append([])
        return self._numbers[node]

    def edge(self, tail: Hashable, head: Hashable, cost: int = INFINITE) -> None:
        """Pay `cost` when `tail` is on the source's side and `head` on the sink's; INFINITE forbids it."""
        for start, end, capacity in ((tail, head, cost), (head, tail, 0)):
            self._edges[self._number(start)].append(len(self._heads))
            self._heads.append(self._number(end))
            self._capacity.append(capacity)

    def source_side(self) -> set[Hashable]:
        """The largest source side among the minimum cuts."""
        while self._push_level(self._levels(self._source, forward=True)):
            pass
        behind = self._levels(self._sink, forward=False)
        return {node for node, number in self._numbers.items() if behind[number] < 0}

    def _levels(self, start: int, *, forward: bool) -> list[int]:
        """Distance of every node from `start` along edges with residual capacity (reversed unless `forward`); -1: unreachable."""
        levels = [-1] * len(self._edges)
        levels[start] = 0
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for e in self._edges[node]:
                if self._capacity[e if forward else e ^ 1] > 0 and levels[self._heads[e]] < 0:
                    levels[self._heads[e]] = levels[node] + 1
                    queue.append(self._heads[e])
        return levels

    def _push_level(self, levels: list[int]) -> bool:
        """Push a blocking flow through the level graph; False when the sink cannot be reached any more."""
        if levels[self._sink] < 0:
            return False
        pending = [iter(edges) for edges in self._edges]
        path: list[int] = []
        node = self._source
        while True:
            if node == self._sink:
                flow = min(self._capacity[e] for e in path)
                for e in path:
                    self._capacity[e] -= flow
                    self._capacity[e ^ 1] += flow
                first = next(i for i, e in enumerate(path) if self._capacity[e] == 0)
                node = self._heads[path[first] ^ 1]
                pending[node] = iter(self._edges[node])  # its edge is saturated, the other edges are not exhausted
                del path[first:]
                continue
            for e in pending[node]:
                if self._capacity[e] > 0 and levels[self._heads[e]] == levels[node] + 1:
                    path.append(e)
                    node = self._heads[e]
                    break
            else:
                if node == self._source:
                    return True
                levels[node] = -1  # a dead end
                node = self._heads[path.pop() ^ 1]
