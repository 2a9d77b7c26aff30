"""What is taken out of a graph, and what is not: small graphs by hand, each with one thing to get right."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aigc_edge.export.schedule import SplitReport, split_schedule

WIDTH = 6  # of the graphs' sample


def split(graph: Any, model: ir.Model) -> tuple[ir.Model, ir.Model, SplitReport]:
    denoiser, schedule, report = split_schedule(model)
    assert schedule is not None
    graph.require_same(model, denoiser, schedule)
    assert [v.name for v in schedule.graph.inputs] == ["timestep"]
    assert report.inputs == len(schedule.graph.outputs)
    assert report.constants == sum(np.prod([s for s in v.shape if isinstance(s, int)], dtype=int) for v in schedule.graph.outputs)
    return denoiser, schedule, report


def test_the_embedding_goes_and_is_counted(graph: Any, rng: np.random.Generator) -> None:
    model = graph.model(graph("Add", graph("MatMul", "sample", graph.weight(WIDTH, WIDTH)), graph.embedding()))
    denoiser, schedule, report = split(graph, model)
    assert graph.names(denoiser) == ["sample", "class_labels", "constant_0"]
    assert graph.kinds(schedule) == ["Unsqueeze", "Gemm", "Sin", "Identity"]
    assert (report.operators, report.of_operators) == (3, 6)
    assert (report.weights, report.of_weights) == (2 * WIDTH, 2 * WIDTH + WIDTH**2)
    assert str(report) == "3 operators, 25.0 % of weights removed"


def test_what_meets_the_class_or_the_sample_stays(graph: Any, rng: np.random.Generator) -> None:
    labelled = graph("Add", graph.embedding(), graph("Gather", graph.weight(3, WIDTH), "class_labels"))
    model = graph.model(graph("Mul", graph("Gemm", labelled, graph.weight(WIDTH, WIDTH)), "sample"))
    denoiser, _, report = split(graph, model)
    assert report.operators == 3
    assert graph.kinds(denoiser) == ["Gather", "Add", "Gemm", "Mul", "Identity"]


def test_a_weight_that_the_rest_needs_too_is_not_removed(graph: Any, rng: np.random.Generator) -> None:
    shared = graph.weight(WIDTH, WIDTH)
    time = graph("MatMul", graph("Tanh", graph.embedding()), shared)
    model = graph.model(graph("Add", graph("MatMul", "sample", shared), time))
    denoiser, schedule, report = split(graph, model)
    assert report.weights == 2 * WIDTH
    assert shared in denoiser.graph.initializers
    assert shared in schedule.graph.initializers


def test_the_border_is_where_least_is_fed(graph: Any, rng: np.random.Generator) -> None:
    """A scalar of the timestep that is spread out at the end: the spreading stays, the scalar is fed."""
    mean = graph("ReduceMean", graph.embedding(), graph.constant(np.array([1], np.int64)), keepdims=1)
    wide = graph("Expand", mean, graph.constant(np.array([1, 20000], np.int64)))
    thin = graph("MatMul", "sample", graph.weight(WIDTH, 20000))
    denoiser, schedule, report = split(graph, graph.model(graph("Add", thin, wide), width=20000))
    assert "Expand" in graph.kinds(denoiser)
    assert report.constants == 1
    assert len(schedule.graph.outputs) == 1


def test_many_small_parts_are_fed_as_one(graph: Any, rng: np.random.Generator) -> None:
    parts = graph("Split", graph.embedding(), outputs=6, axis=1, num_outputs=6)
    out = "sample"
    for part in parts:
        out = graph("Mul", out, part)
    denoiser, _, report = split(graph, graph.model(out))
    assert report.inputs == 1
    assert "Split" in graph.kinds(denoiser)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_values_without_a_batch(graph: Any, rng: np.random.Generator, rank: int) -> None:
    first = graph("Slice", graph.embedding(), *(graph.constant(np.array([i], np.int64)) for i in (0, 1, 0)))
    value = graph("MatMul", first, graph.weight(WIDTH, 1 if rank == 0 else WIDTH))
    if rank < 2:
        value = graph("Reshape", value, graph.constant(np.array([WIDTH] * rank, np.int64)))
    _, schedule, report = split(graph, graph.model(graph("Mul", "sample", value)))
    assert report.operators >= 4
    assert [str(v.shape[0]) for v in schedule.graph.outputs if v.shape is not None] == ["N"]


def test_a_batch_size_that_is_read_off_the_sample(graph: Any, rng: np.random.Generator) -> None:
    """Expand(f(timestep[0]), [batch of the sample, 6]), as code for scalar timesteps does."""
    first = graph("Slice", graph.embedding(), *(graph.constant(np.array([i], np.int64)) for i in (0, 1, 0)))
    batch = graph("Slice", graph("Shape", graph("Tanh", "sample")), *(graph.constant(np.array([i], np.int64)) for i in (0, 1)))
    shape = graph("Concat", batch, graph.constant(np.array([WIDTH], np.int64)), axis=0)
    wide = graph("Sigmoid", graph("Gemm", graph("Expand", first, shape), graph.weight(WIDTH, WIDTH)))
    denoiser, schedule, report = split(graph, graph.model(graph("Mul", "sample", wide)))
    assert graph.names(denoiser) == ["sample", "class_labels", "constant_0"]
    assert "Gemm" not in graph.kinds(denoiser)
    assert graph.names(schedule) == ["timestep"]
    assert report.operators >= 7


def test_a_batch_size_that_is_read_off_the_timestep(graph: Any, rng: np.random.Generator) -> None:
    batch = graph("Shape", graph.embedding(), start=0, end=1)
    shape = graph("Concat", batch, graph.constant(np.array([2, 3], np.int64)), axis=0)
    folded = graph("Reshape", graph("Mul", "sample", graph.embedding()), shape)
    model = graph.model(graph("Flatten", graph("Softmax", folded)))
    denoiser, _, _ = split(graph, model)
    assert "timestep" not in graph.names(denoiser)


def test_nothing_to_remove_leaves_the_model_alone(graph: Any, rng: np.random.Generator) -> None:
    noise = graph("Bernoulli", graph("Sigmoid", "timestep"))
    column = graph("Unsqueeze", noise, graph.constant(np.array([1], np.int64)))
    model = graph.model(graph("Mul", "sample", column))
    before = ir.to_proto(model).SerializeToString()
    denoiser, schedule, report = split_schedule(model)
    assert report.operators in (0, 1)  # the Sigmoid in front of chance may go
    if schedule is None:
        assert denoiser is model
    assert ir.to_proto(model).SerializeToString() == before
    for time in ("ghost", "class_labels"):
        same, none, report = split_schedule(model, time)
        assert same is model
        assert none is None
        assert (report.operators, report.weights, report.inputs) == (0, 0, 0)


def test_chance_is_not_evaluated_beforehand(graph: Any) -> None:
    noise = graph("RandomNormalLike", graph.embedding())
    denoiser, _, _ = split_schedule(graph.model(graph("Add", "sample", noise)))
    assert "RandomNormalLike" in graph.kinds(denoiser)


def test_an_output_that_is_of_the_timestep_keeps_its_producer(graph: Any, rng: np.random.Generator) -> None:
    model = graph.model(graph.embedding())
    denoiser, schedule, _ = split_schedule(model)
    given = graph.feeds(3, rng)
    extra = {} if schedule is None else graph.run(schedule, given)
    np.testing.assert_allclose(graph.run(denoiser, given | extra)["output"], graph.run(model, given)["output"], rtol=1e-6)


def test_names_that_are_taken_are_left_alone(graph: Any, rng: np.random.Generator) -> None:
    model = graph.model(graph("Add", graph("MatMul", "sample", graph.weight(WIDTH, WIDTH)), graph.embedding()))
    next(node for node in model.graph if node.op_type == "MatMul").outputs[0].name = "constant_0"
    denoiser, _, _ = split(graph, model)
    assert graph.names(denoiser)[-1] == "schedule_constant_0"
