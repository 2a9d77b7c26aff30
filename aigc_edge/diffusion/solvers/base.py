"""What solvers are made of: the step, moves between noise levels, and integrals of polynomials.

A level is (alpha, sigma) with x = alpha · x0 + sigma · eps. With q = alpha / sigma the sampling ODE is d(x / sigma) = D dq, with
s = sigma / alpha it is d(x / alpha) = eps ds, for every schedule; lambda = ln q is the half-log-SNR (Lu et al. 2022).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from aigc_edge.diffusion.row import Matrix
from aigc_edge.diffusion.schedule import Level
from aigc_edge.registry import Registry


class Step(NamedTuple):
    """A row before it knows its network: the level of the evaluation and what becomes of the slots (see `Row`)."""

    level: Level
    after: Matrix
    after_noise: tuple[float, ...] | None = None
    before_noise: tuple[float, ...] | None = None
    before: Matrix | None = None


Solver = Callable[..., Iterator[Step]]
SOLVERS: Registry[Solver] = Registry("solver", "aigc_edge.diffusion.solvers", "aigc_edge.solvers")


def symbols(slots: int) -> np.ndarray:
    """Unit vectors [slots + 2, slots + 2] that stand for the slots, D and fresh noise, to write updates as sums."""
    return np.eye(slots + 2)


def step(level: Level, *slots: np.ndarray) -> Step:
    """The step that leaves these sums of `symbols` in the slots."""
    table = np.array(slots)
    return Step(level, tuple(tuple(row) for row in table[:, :-1].tolist()), tuple(table[:, -1].tolist()))


def straight(start: Level, end: Level, sigma_end: float) -> tuple[float, float]:
    """(keep, pull) of x' = keep · x + pull · D: noise and image stay as predicted, the noise is scaled down to `sigma_end`."""
    return sigma_end / start.sigma, (end.alpha * start.sigma - start.alpha * sigma_end) / start.sigma


def ancestral(start: Level, end: Level, eta: float) -> tuple[Level, float]:
    """The level to go to without noise and the fresh noise that leads from there to `end`; eta = 1 samples q(x' | x, x0 = D)."""
    ratio = end.sigma / start.sigma * (start.alpha / end.alpha)
    # Shares of the new variance, written so that nothing cancels at eta = 1.
    kept = max((1 - eta) * (1 + eta) + (eta * ratio) ** 2, 0.0)
    fresh = min(eta**2 * (1 - ratio) * (1 + ratio), 1.0)
    return Level(end.alpha, end.sigma * math.sqrt(kept)), end.sigma * math.sqrt(fresh)


def between(start: Level, end: Level, ratio: float) -> Level:
    """The level on the straight line from `start` to `end` with sigma / alpha = `ratio`."""
    share = (start.sigma - ratio * start.alpha) / (ratio * (end.alpha - start.alpha) - (end.sigma - start.sigma))
    return Level(start.alpha + share * (end.alpha - start.alpha), start.sigma + share * (end.sigma - start.sigma))


def log_snr(level: Level) -> float:
    """lambda = ln(alpha / sigma); −inf where there is no image, inf where there is no noise."""
    if level.alpha == 0 or level.sigma == 0:
        return -math.inf if level.alpha == 0 else math.inf
    return math.log(level.alpha) - math.log(level.sigma)


@functools.cache
def quadrature(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of Gauss-Legendre quadrature over -1 … 1."""
    return np.polynomial.legendre.leggauss(points)


def lagrange(nodes: Sequence[float]) -> np.ndarray:
    """Coefficients, constant first, of the polynomials that are 1 at one node and 0 at the others; [nodes, nodes]."""
    return np.linalg.inv(np.vander(nodes, increasing=True)).T


def exponential_weights(nodes: Sequence[float], start: float, end: float, rate: float = 1.0) -> np.ndarray:
    """Integrals over u = start … end of rate · exp(rate · (u − end)) times each Lagrange polynomial of `nodes`; [nodes].

    `nodes` may be any scale, `start` finite; computed by Gauss-Legendre quadrature, exact to rounding for steps of usual size.
    """
    pieces = max(1, math.ceil(abs(end - start) * abs(rate) / 2))
    edges = np.linspace(start, end, pieces + 1)
    points, weights = quadrature(16)
    half = np.diff(edges)[:, None] / 2
    u = (edges[:-1, None] + half * (1 + points)).ravel()
    density = (half * weights).ravel() * rate * np.exp(rate * (u - end))
    # Shifted and scaled nodes keep the Vandermonde matrix tame.
    scale = max(abs(end - start), 1e-300)
    powers = np.vander((u - start) / scale, len(nodes), increasing=True)
    return lagrange([(n - start) / scale for n in nodes]) @ (density @ powers)
