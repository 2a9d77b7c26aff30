"""Processor features and memory of this machine, and process settings for shared machines."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from pathlib import Path
from typing import Any


@functools.cache
def has_vnni() -> bool:
    """Whether the CPU multiplies bytes into 32-bit sums (AVX-VNNI or AVX512-VNNI).

    onnxruntime's fast int8 kernels for x86 CPUs without it saturate 16-bit sums silently.
    """
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: use the slower exact kernels
        return False


@functools.cache
def processor_features() -> str:
    """The processor's feature flags, which determine kernel selection, as the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):  # not Linux
        return platform.processor()


# Instructions that decide what numbers a network computes, as Linux names them: of x86, then of Arm.
INSTRUCTIONS: tuple[str, ...] = (
    "avx2",
    "fma",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
)
INSTRUCTIONS += ("amx_fp16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve")
_HALF = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "asimdhp")}


def instruction_sets() -> tuple[str, ...]:
    """Those of INSTRUCTIONS that this CPU has; none where the system does not say."""
    flags = set(processor_features().split())
    return tuple(name for name in INSTRUCTIONS if name in flags)


def half_precision(name: str) -> bool:
    """Whether the CPU multiplies in the half precision `name`, "bf16" or "fp16", itself."""
    return not set(_HALF[name]).isdisjoint(processor_features().split())


def lacking(name: str) -> str:
    """The instructions for the half precision `name` that a CPU without `half_precision` lacks, as part of a sentence."""
    return f"{', '.join(_HALF[name][:-1])} and Arm's {_HALF[name][-1]}"


def is_arm() -> bool:
    """Whether this is a 64-bit Arm CPU."""
    return platform.machine().lower() in ("aarch64", "arm64")


def let_threads_sleep() -> None:
    """Make idle OpenMP threads sleep instead of spin; call before importing torch.

    On cores shared with other processes, spinning made a training step seven times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def import_onnxruntime() -> Any:
    """onnxruntime, without its telemetry, which leaves a device id and a database in the user's cache.

    A value that ORT_DISABLE_TELEMETRY already has stays. Raises ImportError where it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    import onnxruntime

    return onnxruntime


def return_memory() -> None:
    """Return freed memory to the system; glibc otherwise retains the freed memory of large networks."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def free_memory() -> int | None:
    """Available memory in bytes without swapping; None where the system does not report it."""
    return _memory("MemAvailable:")


def total_memory() -> int | None:
    """Total memory in bytes; None where the system does not report it."""
    return _memory("MemTotal:")


def _memory(entry: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))
    except (OSError, StopIteration, ValueError):  # not Linux
        return None
