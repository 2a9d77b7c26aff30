"""Imports configured diffusers schedulers as programs, by running them on unit vectors (needs diffusers and torch)."""

from __future__ import annotations

from aigc_edge.diffusion.importer.scheduler import ImportedScheduler, from_diffusers, import_again, import_scheduler

__all__ = ["ImportedScheduler", "from_diffusers", "import_again", "import_scheduler"]
