"""Solvers: each is one generator of steps over falling noise levels, written from its paper and found by its name in SOLVERS."""

from __future__ import annotations

from aigc_edge.diffusion.solvers.base import SOLVERS, Order, Solver, Step

__all__ = ["SOLVERS", "Order", "Solver", "Step"]
