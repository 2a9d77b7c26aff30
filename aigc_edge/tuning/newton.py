"""One Gauss-Newton step of a table towards its target, by forward evaluations alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aigc_edge.tuning.table import Array, Table
from aigc_edge.tuning.task import Images, Task

# Finite differences: small against the curvature of a network, large against its float32 rounding.
STEP = 3e-3  # of the input of an evaluation, which has unit variance, in root mean square
LEVEL_STEP = 2e-2  # of a log noise level
_JITTER = 1e-9


@dataclass(frozen=True)
class Slope:
    """The normal equations of a table's mean squared error: hessian [P, P], gradient [P], over `directions`.

    A direction changes one line of the weights, so that the input of that evaluation (or the result) moves by one root mean
    square, or it is (evaluation, None): the log noise level. In such units every direction is as long as any other, which is what
    damping needs; raw coefficients of nearly parallel arrays are not.
    """

    directions: tuple[tuple[int, Array | None], ...]
    hessian: Array
    gradient: Array
    error: float

    def step(self, table: Table, damping: float, low: float, high: float) -> Table:
        """The damped solution; levels stay within `low` … `high`."""
        change: Array = -np.linalg.solve(self.hessian + damping * np.eye(len(self.gradient)), self.gradient)
        return moved(table, self.directions, change, low, high)


def moved(
    table: Table, directions: tuple[tuple[int, Array | None], ...], change: Array, low: float = -np.inf, high: float = np.inf
) -> Table:
    """`table` changed by `change` [P] along `directions`."""
    levels, weights = table.levels.copy(), table.weights.copy()
    for (index, line), size in zip(directions, change, strict=True):
        if line is None:
            levels[index] = min(max(levels[index] + size, low), high)
        else:
            weights[index, : len(line)] += size * line
    return Table(levels, weights)


def slope(task: Task, table: Table) -> Slope:
    """Measure the normal equations of `task` at `table`: P evaluations of the rows behind each parameter, in constant memory."""
    directions = tuple(_directions(table, _gram(task, table)))
    total = len(directions)
    hessian, gradient, error, count = np.zeros((total, total)), np.zeros(total), 0.0, 0
    for part in task.parts():
        known, result = part.run(table)
        off = part.residual(result).ravel()
        alive = (part.clamped(result) == result).ravel()
        lines = np.stack([_derivative(part, table, d, known, result).ravel() * alive for d in directions])
        hessian += np.asarray(lines @ lines.T, np.float64)
        gradient += np.asarray(lines @ off, np.float64)
        error += float(np.square(off, dtype=np.float64).sum())
        count += off.size
    return Slope(directions, hessian / count, gradient / count, error / count)


def evaluations(nfe: int) -> int:
    """How many evaluations a sample costs in `slope`."""
    return 2 * nfe + sum((index + 2) * (nfe - index) for index in range(nfe))


def _gram(task: Task, table: Table) -> Array:
    total, count = np.zeros((table.nfe + 1, table.nfe + 1)), 0
    for part in task.parts():
        flat = part.run(table)[0].reshape(table.nfe + 1, -1).astype(np.float64)
        total += flat @ flat.T
        count += flat.shape[1]
    return total / count


def _directions(table: Table, gram: Array) -> list[tuple[int, Array | None]]:
    found: list[tuple[int, Array | None]] = []
    for index in range(table.nfe + 1):
        own = gram[: index + 1, : index + 1]
        lower = np.linalg.cholesky(own + _JITTER * np.trace(own) * np.eye(index + 1))
        found += [(index, line) for line in np.linalg.inv(lower)]
    return found + [(index, None) for index in range(table.nfe) if np.isfinite(table.levels[index])]


def _derivative(part: Task, table: Table, direction: tuple[int, Array | None], known: Images, result: Images) -> Images:
    index, line = direction
    if index == table.nfe:  # the result itself: exact, and free
        assert line is not None
        return np.tensordot(line.astype(np.float32), known, 1)
    size = LEVEL_STEP if line is None else STEP
    _, other = part.run(moved(table, (direction,), np.array([size])), known.copy(), index)
    return (other - result) / np.float32(size)
