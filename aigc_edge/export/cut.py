"""Minimum cuts: which of two sides each node of a small graph belongs on, so that the edges between them cost least."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

INFINITE = 1 << 60


class Cut:
    """Nodes joined by directed edges with a cost; an edge is paid when it leads from the source's side to the sink's.

    Dinic's algorithm; costs are whole numbers, so that no tolerance is needed.
    """

    def __init__(self, source: Hashable, sink: Hashable) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._edges: list[list[int]] = []  # of a node: indices into _heads and _rest
        self._heads: list[int] = []
        self._rest: list[int] = []  # capacity that is left; edge e ^ 1 is the reverse of e
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
            self._rest.append(capacity)

    def source_side(self) -> set[Hashable]:
        """The largest source's side among the cheapest cuts."""
        while self._push_level(self._levels(self._source, forward=True)):
            pass
        behind = self._levels(self._sink, forward=False)
        return {node for node, number in self._numbers.items() if behind[number] < 0}

    def _levels(self, start: int, *, forward: bool) -> list[int]:
        """Distance of every node from `start` along edges with capacity left (against them when not `forward`), -1: none."""
        levels = [-1] * len(self._edges)
        levels[start] = 0
        queue = deque([start])
        while queue:
            node = queue.popleft()
            for e in self._edges[node]:
                if self._rest[e if forward else e ^ 1] > 0 and levels[self._heads[e]] < 0:
                    levels[self._heads[e]] = levels[node] + 1
                    queue.append(self._heads[e])
        return levels

    def _push_level(self, levels: list[int]) -> bool:
        """Push a blocking flow through the level graph; False when the sink cannot be reached any more."""
        if levels[self._sink] < 0:
            return False
        todo = [iter(edges) for edges in self._edges]
        path: list[int] = []
        node = self._source
        while True:
            if node == self._sink:
                flow = min(self._rest[e] for e in path)
                for e in path:
                    self._rest[e] -= flow
                    self._rest[e ^ 1] += flow
                first = next(i for i, e in enumerate(path) if self._rest[e] == 0)
                node = self._heads[path[first] ^ 1]
                todo[node] = iter(self._edges[node])  # its edge is full now, others were not tried to their end
                del path[first:]
                continue
            for e in todo[node]:
                if self._rest[e] > 0 and levels[self._heads[e]] == levels[node] + 1:
                    path.append(e)
                    node = self._heads[e]
                    break
            else:
                if node == self._source:
                    return True
                levels[node] = -1  # a dead end
                node = self._heads[path.pop() ^ 1]
