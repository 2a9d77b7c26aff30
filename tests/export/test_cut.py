"""Minimum cuts against every cut there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aigc_edge.export.cut import INFINITE, source_side


def cost_of(edges: list[tuple[str, str, int]], side: set[str]) -> int:
    return sum(cost for tail, head, cost in edges if tail in side and head not in side)


@pytest.mark.parametrize("_", range(20))
def test_it_is_the_cheapest_and_the_largest(rng: np.random.Generator, _: int) -> None:
    nodes = [f"n{i}" for i in range(rng.integers(1, 7))]
    ends = ["s", *nodes, "t"]
    edges: list[tuple[str, str, int]] = []
    for _ in range(int(rng.integers(3, 20))):
        tail, head = (str(end) for end in rng.choice(ends, 2, replace=False))
        edges.append((tail, head, INFINITE if rng.random() < 0.15 and (tail, head) != ("s", "t") else int(rng.integers(0, 9))))
    sides = [{"s", *chosen} for n in range(len(nodes) + 1) for chosen in itertools.combinations(nodes, n)]
    least = min(cost_of(edges, side) for side in sides)
    if least >= INFINITE:
        pytest.skip("no cut is allowed")
    found = {str(node) for node in source_side(edges, "s", "t")}
    mentioned = {"s", *(end for edge in edges for end in edge[:2])}
    assert cost_of(edges, found) == least
    assert found == set.union(*(side & mentioned for side in sides if cost_of(edges, side) == least))


def test_a_long_chain_needs_no_recursion() -> None:
    edges = [("s" if i == 0 else i, i + 1, 2 if i == 3000 else 3) for i in range(5000)]
    assert source_side([*edges, (5000, "t", 3)], "s", "t") == {"s", *range(1, 3001)}
