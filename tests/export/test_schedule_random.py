"""Random networks of a sample and a timestep: split in two they are what the whole is, and nothing that could go is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aigc_edge.export.schedule import split_schedule

WIDTH = 6  # of the graphs' sample
AXIS = np.array([1], np.int64)


def grow(graph: Any, rng: np.random.Generator, pool: list[str], spread: str) -> str:
    """One more value [N, 6] of those in `pool` (all [N, 6]); `spread` is a value [N, 6] whose shape may be asked for."""
    kind = rng.integers(9)
    a, b = (str(v) for v in rng.choice(pool, 2))
    if kind == 0:
        return str(graph(str(rng.choice(["Sin", "Tanh", "Sigmoid", "Identity"])), a))
    if kind == 1:
        return str(graph(str(rng.choice(["Add", "Sub"])), a, b))
    if kind == 2:
        return str(graph("Mul", graph("Sin", a), b))
    if kind == 3:
        weight = str(rng.choice([n for n, v in graph.constants.items() if v.shape == (WIDTH, WIDTH)]))
        return str(graph("MatMul", graph("Tanh", a), weight if rng.random() < 0.5 else graph.weight(WIDTH, WIDTH)))
    if kind == 4:
        left, right = graph("Split", a, outputs=2, axis=1, num_outputs=2)
        return str(graph("Concat", graph("Sin", right), left, axis=1))
    if kind == 5:  # through another rank and back
        cube = graph("Unsqueeze", a, graph.constant(np.array([2, 3], np.int64)))
        return str(graph("Squeeze", graph("Sigmoid", cube), graph.constant(np.array([2, 3], np.int64))))
    if kind == 6:
        mean = graph("ReduceMean", a, graph.constant(AXIS), keepdims=1)
        return str(graph("Expand", mean, graph("Shape", spread)))
    if kind == 7:  # of the first sample only: all have one timestep, but not one sample
        first = graph("Slice", pool[1], *(graph.constant(np.array([i], np.int64)) for i in (0, 1, 0)))
        return str(graph("Mul", graph("Sigmoid", a), graph("Sin", first)))
    size = graph("Shape", a, start=0, end=1)
    return str(graph("Reshape", b, graph("Concat", size, graph.constant(np.array([WIDTH], np.int64)), axis=0)))


@pytest.mark.parametrize("_", range(25))
def test_a_random_network(graph: Any, rng: np.random.Generator, _: int) -> None:
    labelled = graph("Gather", graph.weight(3, WIDTH), "class_labels")
    pool = ["sample", graph("MatMul", graph.embedding(), graph.weight(WIDTH, WIDTH)), labelled]
    for _ in range(int(rng.integers(4, 30))):
        pool.append(grow(graph, rng, pool, str(rng.choice(pool))))
    total = "sample"
    for value in rng.choice(pool, 5):
        total = graph("Add", total, str(value))
    model = graph.model(str(graph("Add", total, pool[1])))
    denoiser, schedule, report = split_schedule(model)
    assert schedule is not None  # pool[1] at least can go
    graph.require_same(model, denoiser, schedule)
    assert graph.names(schedule) == ["timestep"]
    assert "timestep" not in graph.names(denoiser)
    assert report.operators >= 4
    assert report.weights >= 2 * WIDTH  # the embedding's, at least
    assert len(graph.kinds(denoiser)) < report.of_operators


def test_the_same_network_is_split_the_same_way(graph: Any, rng: np.random.Generator) -> None:
    pool = ["sample", graph("MatMul", graph.embedding(), graph.weight(WIDTH, WIDTH))]
    for _ in range(20):
        pool.append(grow(graph, rng, pool, pool[0]))
    model = graph.model(str(graph("Add", pool[-1], graph("Add", pool[1], "sample"))))
    made = [[ir.to_proto(part).SerializeToString() for part in split_schedule(model)[:2] if part is not None] for _ in range(2)]
    assert made[0] == made[1]
