"""Tuned solvers: coefficients and noise levels fitted to many-step samples of the same network (arXiv 2403.01329)."""

from __future__ import annotations
