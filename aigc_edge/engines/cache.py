"""What engines keep on this machine, and how much of the disk that may take."""

from __future__ import annotations

import math
import os

from aigc_edge.errors import AigcEdgeError

VARIABLE, DEFAULT_GB = "AIGC_EDGE_PLAN_CACHE_GB", 20.0


def cache_limit(given: float | None = None) -> float:
    """Bytes that plans may take, and as many that networks laid out for the CPU may: `given` GB, else those of
    $AIGC_EDGE_PLAN_CACHE_GB, else 20 GB; raises AigcEdgeError."""
    text = os.environ.get(VARIABLE, "") if given is None else str(given)
    try:
        limit = float(text or DEFAULT_GB)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise AigcEdgeError(f"{VARIABLE} is {text!r}: give the GB that built plans may take, such as 20, or 0 to keep none")
    return limit * 1e9
