"""Training: one loop for every family."""

from __future__ import annotations

from aigc_edge.train.run import train

__all__ = ["train"]
