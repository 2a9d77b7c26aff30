"""Size limit of the on-disk caches of the engines."""

from __future__ import annotations

import math
import os

from aigc_edge.errors import AigcEdgeError

VARIABLE, DEFAULT_GB = "AIGC_EDGE_PLAN_CACHE_GB", 20.0


def cache_limit(limit_gb: float | None = None) -> float:
    """Maximum size in bytes of the cache of TensorRT plans, and likewise of the cache of optimised CPU models.

    `limit_gb` in GB, by default $AIGC_EDGE_PLAN_CACHE_GB, else 20. Raises AigcEdgeError for a value that is not a number >= 0.
    """
    text = os.environ.get(VARIABLE, "") if limit_gb is None else str(limit_gb)
    try:
        limit = float(text or DEFAULT_GB)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise AigcEdgeError(
            f"{VARIABLE} is {text!r}: give the GB that built plans may take, such as 20, or 0 to disable the cache"
        )
    return limit * 1e9
