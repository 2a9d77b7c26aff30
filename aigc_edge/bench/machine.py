"""What kind of machine the figures are from; nothing that names the machine itself."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aigc_edge.hardware import processor_features, total_memory

FLAGS: tuple[str, ...] = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
FLAGS += ("asimd", "asimddp", "i8mm", "sve")  # of ARM
PACKAGES = ("aigc-edge", "numpy", "onnxruntime", "torch", "diffusers")


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo; empty where that is not to be had."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def fingerprint() -> dict[str, Any]:
    """Processor, cores, instruction sets, memory, kind of system and versions: figures compare only where these agree."""
    info = _cpuinfo()
    flags = set(processor_features().split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = total_memory()
    return {
        "cpu": info.get("model name") or info.get("Model") or platform.processor() or platform.machine(),
        "family": " ".join(info[key] for key in ("vendor_id", "cpu family", "model", "stepping") if key in info),
        "architecture": platform.machine(),
        "cores": cores,
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(memory / 2**30, 1) if memory else None,
        "system": f"{platform.system()} {_release()}".strip(),
        "versions": _versions(),
    }


def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.release()


def busy() -> dict[str, float]:
    """How busy the machine is with other things: load average of the last minute, and ticks that were stolen by its host."""
    figures = {"load": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        figures |= {"ticks": float(sum(ticks)), "stolen": float(ticks[7])}
    return figures
