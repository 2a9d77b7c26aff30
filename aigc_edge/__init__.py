"""aigc-edge: a sampling compiler and runtime for generative models.

import aigc_edge
images = aigc_edge.open("digits.aigc").sample(16, seed=0)   # uint8 [16, H, W, C]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aigc_edge.errors import AigcEdgeError

if TYPE_CHECKING:
    from aigc_edge.runtime.pipeline import Pipeline, open

__version__ = "0.1.0"
__all__ = ["AigcEdgeError", "Pipeline", "__version__", "open"]


def __getattr__(name: str) -> Any:  # PEP 562: importing the package must not load engines or the native core
    if name in ("open", "Pipeline"):
        from aigc_edge.runtime import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'aigc_edge' has no attribute {name!r}")
