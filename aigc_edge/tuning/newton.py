"""Gauss-Newton steps for the coefficients and levels of a table, by forward evaluations alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aigc_edge.tuning.table import Array, CoefficientTable
from aigc_edge.tuning.task import Images, Task

# Finite differences: small against the curvature of a network, large against its float32 rounding.
STEP = 3e-3  # of the input of an evaluation, which has unit variance, in root mean square
LEVEL_STEP = 2e-2  # of a log noise level
_JITTER = 1e-9


def to_vector(table: CoefficientTable) -> Array:
    """The parameters of a table [P]: the rows of its weights, then its finite noise levels."""
    inside = np.tril_indices(table.nfe + 1)
    return np.concatenate([table.weights[inside], table.levels[np.isfinite(table.levels)]])


def from_vector(table: CoefficientTable, values: Array, low: float = -np.inf, high: float = np.inf) -> CoefficientTable:
    """`table` with other parameters (see `to_vector`); levels are clipped to `low` … `high`."""
    inside = np.tril_indices(table.nfe + 1)
    weights, levels = np.zeros_like(table.weights), table.levels.copy()
    weights[inside] = values[: len(inside[0])]
    levels[np.isfinite(levels)] = np.clip(values[len(inside[0]) :], low, high)
    return CoefficientTable(levels, weights)


@dataclass(frozen=True)
class Linearisation:
    """Quadratic model of the squared error near `table`, on some samples: error + 2 gradientᵀ change + changeᵀ hessian change.

    `change` [P] is along the rows of `directions` [P, P], in units that move the input of an evaluation, or the result, by one
    root mean square, or a log noise level by one. In these units one damping suits all directions, which coefficients of nearly
    parallel arrays would not allow.
    """

    table: CoefficientTable
    directions: Array
    hessian: Array
    gradient: Array
    error: float


class NormalEquations:
    """Normal equations over the batches so far, each linearised at the table of its time, with weights that decay.

    As in an extended Kalman filter, small batches then suffice, without overfitting the last one.
    """

    def __init__(self) -> None:
        self._matrix: Array | float = 0.0
        self._vector: Array | float = 0.0
        self._weight = 0.0

    def add(self, model: Linearisation, decay: float) -> None:
        """Add a batch; earlier ones are multiplied by `decay` (0 … 1)."""
        back = np.linalg.inv(model.directions)
        matrix = back @ model.hessian @ back.T
        vector = matrix @ to_vector(model.table) - back @ model.gradient
        self._matrix, self._vector = decay * self._matrix + matrix, decay * self._vector + vector
        self._weight = decay * self._weight + 1.0

    def step(self, model: Linearisation, damping: float, low: float, high: float) -> CoefficientTable:
        """The Gauss-Newton step from the table of `model` with Levenberg-Marquardt `damping`."""
        start, lines = to_vector(model.table), model.directions
        hessian = lines @ self._matrix @ lines.T / self._weight
        gradient = lines @ (self._matrix @ start - self._vector) / self._weight
        change = -np.linalg.solve(hessian + damping * np.eye(len(start)), gradient)
        return from_vector(model.table, start + change @ lines, low, high)


def linearise(task: Task, table: CoefficientTable) -> Linearisation:
    """The model of the squared error of `task` around `table`, by finite differences of every parameter, in constant memory."""
    directions = _directions(table, _gram(task, table))
    total = len(directions)
    hessian, gradient, error, count = np.zeros((total, total)), np.zeros(total), 0.0, 0
    for batch in task.batches():
        known, result = batch.run(table)
        residual = batch.residual(result).ravel()
        unclamped = (batch.clamped(result) == result).ravel()
        derivatives = np.stack([_derivative(batch, table, line, known, result).ravel() * unclamped for line in directions])
        hessian += np.asarray(derivatives @ derivatives.T, np.float64)
        gradient += np.asarray(derivatives @ residual, np.float64)
        error += float(np.square(residual, dtype=np.float64).sum())
        count += residual.size
    return Linearisation(table, directions, hessian / count, gradient / count, error / count)


def solve_result(task: Task, table: CoefficientTable) -> CoefficientTable:
    """`table` with the last row of its weights solved for the least squared error before clamping, over all samples."""
    matrix, vector = np.zeros((table.nfe + 1, table.nfe + 1)), np.zeros(table.nfe + 1)
    for batch in task.batches():
        flat = batch.run(table)[0].reshape(table.nfe + 1, -1).astype(np.float64)
        matrix += flat @ flat.T
        vector += flat @ batch.target.reshape(-1).astype(np.float64)
    weights = table.weights.copy()
    weights[-1] = np.linalg.lstsq(matrix, vector, rcond=1e-12)[0]
    return CoefficientTable(table.levels, weights)


def linearise_evaluations(nfe: int) -> int:
    """Network evaluations per sample of `linearise`."""
    return 2 * nfe + sum((index + 2) * (nfe - index) for index in range(nfe))


def _gram(task: Task, table: CoefficientTable) -> Array:
    total, count = np.zeros((table.nfe + 1, table.nfe + 1)), 0
    for batch in task.batches():
        flat = batch.run(table)[0].reshape(table.nfe + 1, -1).astype(np.float64)
        total += flat @ flat.T
        count += flat.shape[1]
    return total / count


def _directions(table: CoefficientTable, gram: Array) -> Array:
    """Orthonormal combinations of the arrays known to each evaluation, then the levels: [P, P] over the parameters."""
    total, place = len(to_vector(table)), 0
    directions = np.eye(total)
    for size in range(1, table.nfe + 2):
        own = gram[:size, :size]
        lower = np.linalg.cholesky(own + _JITTER * np.trace(own) * np.eye(size))
        directions[place : place + size, place : place + size] = np.linalg.inv(lower)
        place += size
    return directions


def _derivative(batch: Task, table: CoefficientTable, line: Array, known: Images, result: Images) -> Images:
    moved = from_vector(table, to_vector(table) + line)
    lines = np.flatnonzero((moved.weights != table.weights).any(axis=1))
    first = int(lines[0] if len(lines) else np.flatnonzero(moved.levels != table.levels)[0])
    if first == table.nfe:  # the result itself: exact, and free
        return np.tensordot((moved.weights[first] - table.weights[first]).astype(np.float32), known, 1)
    size = STEP if len(lines) else LEVEL_STEP
    _, other = batch.run(from_vector(table, to_vector(table) + size * line), known.copy(), first)
    return (other - result) / np.float32(size)
