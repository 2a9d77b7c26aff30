"""What solvers are made of: the step, the registry, moves between noise levels, and integrals of polynomials.

A level is (alpha, sigma) with x = alpha · x0 + sigma · eps. With q = alpha / sigma the sampling ODE is d(x / sigma) = D dq, with
s = sigma / alpha it is d(x / alpha) = eps ds, for every schedule; lambda = ln q is the half-log-SNR (Lu et al. 2022).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.row import Matrix
from aigc_edge.diffusion.schedules import Level
from aigc_edge.errors import ProgramError
from aigc_edge.registry import Registry


class Step(NamedTuple):
    """A row without the network's coefficients: the noise level of the evaluation and the update of the slots (see `Row`)."""

    level: Level
    after: Matrix
    after_noise: tuple[float, ...] | None = None
    before_noise: tuple[float, ...] | None = None
    before: Matrix | None = None


Solver = Callable[..., Iterator[Step]]


class Order(NamedTuple):
    """Order of convergence p of a solver with `options`: twice the steps divide the error by 2^p; 0 for no convergence.

    The error is that of the sample, from the probability-flow ODE, where the solver with these options adds no noise, and that of
    the sample's mean and standard deviation (weak order) where it does. `equal_steps`: p holds for equal steps of sigma only.
    """

    order: int
    options: Mapping[str, Any] = MappingProxyType({})
    equal_steps: bool = False


class SolverRegistry(Registry[Solver]):
    """Solvers by name, with the order of convergence that each declares and is tested for."""

    def __init__(self) -> None:
        super().__init__("solver", "aigc_edge.diffusion.solvers", "aigc_edge.solvers")
        self._orders: dict[str, tuple[Order, ...]] = {}

    def register(self, name: str, *, order: int | Sequence[Order] | None = None) -> Callable[[Solver], Solver]:
        """Return a decorator that stores a solver as `name`; `order` is that with default options, or one `Order` per options."""
        store = super().register(name)

        def declare(solver: Solver) -> Solver:
            if order is not None:
                self._orders[name] = (Order(order),) if isinstance(order, int) else tuple(order)
            return store(solver)

        return declare

    def orders(self, name: str) -> tuple[Order, ...]:
        """The declared orders of the solver `name`; raises ProgramError where it declares none."""
        checks.look_up(self, name)  # loads the module or entry point that registers it
        if name not in self._orders:
            raise ProgramError(
                f"solver {name!r} declares no order of convergence: add it where it is registered, as in "
                f"@SOLVERS.register({name!r}, order=2); 0 is for samplers that do not converge, and a solver that adds noise may "
                'list orders without it, as in order=[Order(2, {"eta": 0.0})]'
            )
        return self._orders[name]


SOLVERS = SolverRegistry()


def symbols(slots: int) -> np.ndarray:
    """Unit vectors [slots + 2, slots + 2] for the slots, D and fresh noise, so that updates can be written as sums."""
    return np.eye(slots + 2)


def step(level: Level, *slots: np.ndarray) -> Step:
    """The step whose updated slots are these sums of `symbols`."""
    table = np.array(slots)
    return Step(level, tuple(tuple(row) for row in table[:, :-1].tolist()), tuple(table[:, -1].tolist()))


def straight(start: Level, end: Level, sigma_end: float) -> tuple[float, float]:
    """(keep, pull) of x' = keep · x + pull · D, the step with constant x0 = D and eps, whose noise is scaled to `sigma_end`."""
    return sigma_end / start.sigma, (end.alpha * start.sigma - start.alpha * sigma_end) / start.sigma


def first_order(x: np.ndarray, d: np.ndarray, start: Level, end: Level, sigma_end: float | None = None) -> np.ndarray:
    """x' of `straight`, as a sum of symbols; the noise is scaled to that of `end` by default."""
    keep, pull = straight(start, end, end.sigma if sigma_end is None else sigma_end)
    return keep * x + pull * d


def weighted(weights: Iterable[float], parts: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of weight · part, over as many as there are weights for."""
    return sum((w * p for w, p in zip(weights, parts, strict=False)), np.zeros(len(parts[0])))


def ancestral(start: Level, end: Level, eta: float) -> tuple[Level, float]:
    """The level to step to without noise, and the scale of the noise that leads to `end`; eta = 1 samples q(x' | x, x0 = D)."""
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
    """The half-log-SNR lambda = ln(alpha / sigma); −inf where alpha is 0, inf where sigma is 0."""
    if level.alpha == 0 or level.sigma == 0:
        return -math.inf if level.alpha == 0 else math.inf
    return math.log(level.alpha) - math.log(level.sigma)


@functools.cache
def quadrature(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature over −1 … 1."""
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
