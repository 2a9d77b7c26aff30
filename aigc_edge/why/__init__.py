"""`why.html`: layer by layer, what a format costs and what it saves, from the quality card of a bundle."""

from aigc_edge.why.report import write

__all__ = ["write"]
