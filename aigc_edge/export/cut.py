"""Minimum cuts: the partition of a graph's nodes into two sides with the least cost of the edges between them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import networkx
from networkx.algorithms.flow import boykov_kolmogorov

INFINITE = 1 << 60  # an integer, as all costs: no tolerance is needed


def source_side(edges: Iterable[tuple[Hashable, Hashable, int]], source: Hashable, sink: Hashable) -> set[Hashable]:
    """The largest source side among the minimum cuts.

    The cost of an edge (tail, head, cost) counts if it leads from the source's side to the sink's; INFINITE forbids it.
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from((source, sink))
    for tail, head, cost in edges:
        graph.add_edge(tail, head, capacity=cost + graph.get_edge_data(tail, head, {"capacity": 0})["capacity"])
    _, (side, _) = networkx.minimum_cut(graph, source, sink, flow_func=boykov_kolmogorov)
    return set(side)
