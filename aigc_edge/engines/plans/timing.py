"""The builder's timing cache: measured kernel times on this device, reused by later builds of any network."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file


def load_timings(config: Any, file: Path) -> bool:
    """Load the timing cache from `file`, or an empty one, into the builder; returns whether the builder accepts one."""
    data = b""
    with contextlib.suppress(OSError):
        data = file.read_bytes()
    for content in dict.fromkeys((data, b"")):  # a cache of another version or device is rejected: use an empty one
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
    return False


def save_timings(config: Any, file: Path) -> None:
    """Save the builder's measurements; a write error does not fail the build."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with contextlib.suppress(OSError, AigcEdgeError), atomic_file(file) as part:
        part.write_bytes(bytes(cache.serialize()))
