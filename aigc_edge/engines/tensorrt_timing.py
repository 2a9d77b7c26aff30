"""The timing cache of a builder: how long kernels took on this device, kept for the next build of any network."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file


def load_timings(config: Any, file: Path) -> bool:
    """Give the builder what `file` holds, or an empty cache; whether it takes one at all."""
    data = b""
    with contextlib.suppress(OSError):
        data = file.read_bytes()
    for content in dict.fromkeys((data, b"")):  # what another version or device left is of no use: begin anew
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
    return False


def save_timings(config: Any, file: Path) -> None:
    """Keep what the builder measured; that it cannot be written is no failure of the build."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with contextlib.suppress(OSError, AigcEdgeError), atomic_file(file) as part:
        part.write_bytes(bytes(cache.serialize()))
