"""Slopes are the derivatives they claim to be, and steps solve what can be solved exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.tuning.newton import NormalEquations, from_vector, linearise, linearise_evaluations, solve_result, to_vector
from aigc_edge.tuning.table import CoefficientTable
from aigc_edge.tuning.task import Task


class Exact(Task):
    """A task whose evaluations are done in float64, for derivatives without rounding."""

    def run(self, table: CoefficientTable, known: Any = None, first: int = 0) -> Any:
        if known is None:
            known = np.zeros((table.nfe + 1, *self.latents.shape))
            known[0] = self.latents
        for index in range(first, table.nfe):
            sample = np.tensordot(table.weights[index], known, 1)
            time = np.full(len(sample), self.path.timestep(float(table.levels[index])))
            known[index + 1] = self.network(sample, time, None)
        return known, np.tensordot(table.weights[-1], known, 1)


@pytest.fixture
def exact(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> Exact:
    toy = tools.Toy(edm, tools.two_points)
    latents = rng.standard_normal((24, 6)).astype(np.float32)
    return Exact(toy, toy.path, latents, np.sign(latents) * np.float32(0.7), batch=10)


def test_numbers_go_both_ways(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    table = tools.table(rng, tools.Toy(edm, tools.two_points).path, 4)
    assert len(to_vector(table)) == 4 + 15
    again = from_vector(table, to_vector(table))
    assert np.array_equal(again.weights, table.weights)
    assert np.array_equal(again.levels, table.levels)
    held = from_vector(table, to_vector(table) + 100, low=-1.0, high=2.0)
    assert np.all(held.levels == 2.0)
    first = CoefficientTable(np.array([np.inf, 0.0]), np.tril(np.ones((3, 3))))  # a level without an image cannot be moved
    assert len(to_vector(first)) == 6 + 1
    assert from_vector(first, to_vector(first) + 1).levels.tolist() == [np.inf, 1.0]


def test_the_gradient_is_that_of_the_error(exact: Exact, tools: Any, rng: np.random.Generator) -> None:
    table = tools.table(rng, exact.path, 3)
    found = linearise(exact, table)
    assert found.error == pytest.approx(exact.error(table), rel=1e-6)
    for line, value in zip(found.directions, found.gradient, strict=True):
        ahead, back = (exact.error(from_vector(table, to_vector(table) + size * line)) for size in (1e-4, -1e-4))
        wanted = (ahead - back) / 2e-4
        assert 2 * value == pytest.approx(wanted, rel=0.05, abs=0.02 * abs(found.gradient).max())


def test_directions_move_each_input_by_one(exact: Exact, tools: Any, rng: np.random.Generator) -> None:
    table = tools.table(rng, exact.path, 3)
    known, _ = exact.run(table)
    found = linearise(exact, table).directions
    sizes = []
    for line in found[: 1 + 2 + 3 + 4]:
        change = from_vector(table, to_vector(table) + line).weights - table.weights
        moved = np.tensordot(change[np.abs(change).any(axis=1)][0], known, 1)
        sizes.append(np.sqrt(np.mean(moved**2)))
    assert np.allclose([sizes[0], sizes[1], sizes[3], sizes[6]], 1.0, rtol=1e-3)  # the first of each line
    assert max(sizes) < 1.001  # less where the arrays are parallel but for rounding


def test_what_is_clamped_has_no_slope(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points)
    latents = rng.standard_normal((8, 6))
    task = tools.task(toy, latents, np.full((8, 6), 0.5), limits=(-1.0, 1.0))
    table = tools.table(rng, toy.path, 2)
    far = CoefficientTable(table.levels, np.vstack([table.weights[:-1], 1e6 * table.weights[-1:]]))
    assert np.abs(linearise(task, far).hessian).max() < 1e-6


def test_the_last_line_is_the_least_squares_one(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points)
    latents, target = rng.standard_normal((40, 6)), rng.standard_normal((40, 6))
    task = tools.task(toy, latents, target)
    table = tools.table(rng, toy.path, 3)
    known = np.concatenate([part.run(table)[0] for part in task.batches()], axis=1).reshape(4, -1)
    matrix = known.T.astype(np.float64)
    least = np.linalg.norm(matrix @ np.linalg.lstsq(matrix, target.ravel(), rcond=None)[0] - target.ravel())
    found = solve_result(task, table)
    assert np.linalg.norm(matrix @ found.weights[-1] - target.ravel()) < 1.01 * least
    assert least < np.linalg.norm(target)
    assert np.array_equal(found.weights[:-1], table.weights[:-1])


def test_damping_holds_a_step_back(exact: Exact, tools: Any, rng: np.random.Generator) -> None:
    table = tools.table(rng, exact.path, 1)
    found, memory = linearise(exact, table), NormalEquations()
    memory.add(found, 0.5)
    changes = [to_vector(memory.step(found, damping, -9, 9)) - to_vector(table) for damping in (1e12, 1e4, 1e-2)]
    sizes = [np.linalg.norm(np.linalg.solve(found.directions.T, change)) for change in changes]
    assert sizes[0] < 1e-6 < sizes[1] < sizes[2]
    assert exact.error(from_vector(table, to_vector(table) + changes[1])) < found.error


def test_memory_is_a_weighted_mean(exact: Exact, tools: Any, rng: np.random.Generator) -> None:
    """Two halves of the samples remembered without fading give the step of the whole."""
    table = tools.table(rng, exact.path, 2)
    whole, halves = NormalEquations(), NormalEquations()
    total = linearise(exact, table)
    whole.add(total, 1.0)
    for part in (slice(0, 12), slice(12, 24)):
        halves.add(linearise(exact.take(part), table), 1.0)
    one, other = (to_vector(memory.step(total, 1.0, -9, 9)) - to_vector(table) for memory in (whole, halves))
    assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)  # finite differences along other directions


def test_evaluations_are_counted_right(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points)
    counted = []
    task = tools.task(toy, rng.standard_normal((5, 6)), np.zeros((5, 6)), on_evaluated=counted.append)
    linearise(task, tools.table(rng, toy.path, 4))
    assert sum(counted) == 5 * linearise_evaluations(4)
