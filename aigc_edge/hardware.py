"""What this machine's processor can do, as far as results or speed depend on it."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def has_vnni() -> bool:
    """Whether the CPU multiplies bytes into 32-bit sums (AVX-VNNI or AVX512-VNNI).

    onnxruntime's fast int8 kernels for x86 CPUs without it saturate 16-bit sums silently.
    """
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: the slow and exact kernels
        return False
