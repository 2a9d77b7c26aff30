"""Gauss-Newton steps of a table towards its target, by forward evaluations alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aigc_edge.tuning.table import Array, Table
from aigc_edge.tuning.task import Images, Task

# Finite differences: small against the curvature of a network, large against its float32 rounding.
STEP = 3e-3  # of the input of an evaluation, which has unit variance, in root mean square
LEVEL_STEP = 2e-2  # of a log noise level
_JITTER = 1e-9


def numbers(table: Table) -> Array:
    """All tuned numbers of a table [P]: lines of the weights one after the other, then the finite noise levels."""
    inside = np.tril_indices(table.nfe + 1)
    return np.concatenate([table.weights[inside], table.levels[np.isfinite(table.levels)]])


def with_numbers(table: Table, values: Array, low: float = -np.inf, high: float = np.inf) -> Table:
    """`table` with other `numbers`; levels are kept within `low` … `high`."""
    inside = np.tril_indices(table.nfe + 1)
    weights, levels = np.zeros_like(table.weights), table.levels.copy()
    weights[inside] = values[: len(inside[0])]
    levels[np.isfinite(levels)] = np.clip(values[len(inside[0]) :], low, high)
    return Table(levels, weights)


@dataclass(frozen=True)
class Slope:
    """A table's squared error near `table`, from some samples: it grows by changeᵀ hessian change + 2 gradientᵀ change.

    `change` [P] is along the lines of `directions` [P, P], in units in which the input of an evaluation, or the result, moves by
    one root mean square, or a log noise level by one. In such units every direction is as long as any other, which is what
    damping needs; the coefficients of nearly parallel arrays are not.
    """

    table: Table
    directions: Array
    hessian: Array
    gradient: Array
    error: float


class Memory:
    """Normal equations of the samples seen so far, each linearised where the table was then; older ones fade.

    As in an extended Kalman filter, a small batch a step then does what a large one would, and no single batch is fitted to.
    """

    def __init__(self) -> None:
        self._matrix: Array | float = 0.0
        self._vector: Array | float = 0.0
        self._weight = 0.0

    def add(self, slope: Slope, fade: float) -> None:
        """Take in a slope; what is there counts `fade` (0 … 1) as much as before."""
        back = np.linalg.inv(slope.directions)
        matrix = back @ slope.hessian @ back.T
        vector = matrix @ numbers(slope.table) - back @ slope.gradient
        self._matrix, self._vector = fade * self._matrix + matrix, fade * self._vector + vector
        self._weight = fade * self._weight + 1.0

    def step(self, slope: Slope, damping: float, low: float, high: float) -> Table:
        """The table of least error in memory, held back from that of `slope` by `damping`."""
        start, lines = numbers(slope.table), slope.directions
        hessian = lines @ self._matrix @ lines.T / self._weight
        gradient = lines @ (self._matrix @ start - self._vector) / self._weight
        change = -np.linalg.solve(hessian + damping * np.eye(len(start)), gradient)
        return with_numbers(slope.table, start + change @ lines, low, high)


def slope(task: Task, table: Table) -> Slope:
    """Measure the squared error of `task` around `table`: for every number, the evaluations behind it; in constant memory."""
    directions = _directions(table, _gram(task, table))
    total = len(directions)
    hessian, gradient, error, count = np.zeros((total, total)), np.zeros(total), 0.0, 0
    for part in task.parts():
        known, result = part.run(table)
        off = part.residual(result).ravel()
        alive = (part.clamped(result) == result).ravel()
        lines = np.stack([_derivative(part, table, line, known, result).ravel() * alive for line in directions])
        hessian += np.asarray(lines @ lines.T, np.float64)
        gradient += np.asarray(lines @ off, np.float64)
        error += float(np.square(off, dtype=np.float64).sum())
        count += off.size
    return Slope(table, directions, hessian / count, gradient / count, error / count)


def best_result(task: Task, table: Table) -> Table:
    """`table` with the last line of its weights chosen for the least squared error before clamping, over all samples."""
    matrix, vector = np.zeros((table.nfe + 1, table.nfe + 1)), np.zeros(table.nfe + 1)
    for part in task.parts():
        flat = part.run(table)[0].reshape(table.nfe + 1, -1).astype(np.float64)
        matrix += flat @ flat.T
        vector += flat @ part.target.reshape(-1).astype(np.float64)
    weights = table.weights.copy()
    weights[-1] = np.linalg.lstsq(matrix, vector, rcond=1e-12)[0]
    return Table(table.levels, weights)


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


def _directions(table: Table, gram: Array) -> Array:
    """Orthonormal combinations of what each evaluation knows, then the levels: [P, P] over the `numbers`."""
    total, place = len(numbers(table)), 0
    found = np.eye(total)
    for size in range(1, table.nfe + 2):
        own = gram[:size, :size]
        lower = np.linalg.cholesky(own + _JITTER * np.trace(own) * np.eye(size))
        found[place : place + size, place : place + size] = np.linalg.inv(lower)
        place += size
    return found


def _derivative(part: Task, table: Table, line: Array, known: Images, result: Images) -> Images:
    moved = with_numbers(table, numbers(table) + line)
    lines = np.flatnonzero((moved.weights != table.weights).any(axis=1))
    first = int(lines[0] if len(lines) else np.flatnonzero(moved.levels != table.levels)[0])
    if first == table.nfe:  # the result itself: exact, and free
        return np.tensordot((moved.weights[first] - table.weights[first]).astype(np.float32), known, 1)
    size = STEP if len(lines) else LEVEL_STEP
    _, other = part.run(with_numbers(table, numbers(table) + size * line), known.copy(), first)
    return (other - result) / np.float32(size)
