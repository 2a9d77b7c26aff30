"""What this machine's processor can do, and how to be a good neighbour on it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
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


@functools.cache
def processor_features() -> str:
    """What kernels are chosen by: the features that the processor has, as the system names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):  # not Linux
        return platform.processor()


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait, not spin; to be called before torch is imported.

    On cores that other processes use too, spinning made a training step seven times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def return_memory() -> None:
    """Give the system back what was freed; glibc keeps large networks' pieces, which would count on top of what comes next."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    return _memory("MemAvailable:")


def total_memory() -> int | None:
    """Bytes that this machine has; None where the system does not tell."""
    return _memory("MemTotal:")


def _memory(entry: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))
    except (OSError, StopIteration, ValueError):  # not Linux
        return None
