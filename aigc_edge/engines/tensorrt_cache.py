"""The cache of built plans: each a file with its report as JSON beside it; the least recently used go when it grows too big."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from aigc_edge.files import cache_folder, sha256_of

_IN_USE = 3600.0  # seconds that another process may need to copy a plan that it found
_FIXED = 20e6  # what a build takes whatever the network is, in bytes of ONNX that take as long
FIRST_GUESS = {"tensorrt_rtx": 1.5e-8, "tensorrt": 3e-7}  # seconds a byte; the first measured, the second assumed
_LEFT_BEHIND = 86400.0  # age of what a killed process left half-written


def plans_folder() -> Path:
    """Where plans are kept."""
    return cache_folder() / "plans"


def timings_file(name: str) -> Path:
    """Where the kernel times of one module, version and device are kept."""
    return cache_folder() / "timing" / f"{name}.cache"


def find(file: Path) -> dict[str, Any] | None:
    """The report of the plan `file` when both are whole, which counts as a use."""
    sidecar = file.with_suffix(".json")
    try:
        report: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        if sha256_of(file) != report["plan_sha256"]:
            return None
        os.utime(sidecar)
    except (OSError, ValueError, KeyError):
        return None
    return report


def evict(folder: Path, limit: float, keep: Path) -> list[Path]:
    """Remove the least recently used plans until the rest takes at most `limit` bytes, and what killed processes left; the plans
    that went. `keep` and plans used within the last hour stay."""
    now, found, total = time.time(), [], 0
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            size, used = file.stat().st_size, file.stat().st_mtime
            if file.suffix == ".plan" and not file.name.startswith("."):
                sidecar = file.with_suffix(".json")
                used = sidecar.stat().st_mtime if sidecar.exists() else used
                total += size
                found.append((used, size, file))
            elif now - used > _LEFT_BEHIND and (file.suffix == ".part" or not file.with_suffix(".plan").exists()):
                file.unlink()
    gone = []
    for used, size, file in sorted(found):
        if total <= limit:
            break
        if file == keep or now - used < _IN_USE:
            continue
        with contextlib.suppress(OSError):
            file.unlink()
            file.with_suffix(".json").unlink(missing_ok=True)
            total -= size
            gone.append(file)
    return gone


def typical_seconds(folder: Path, module: str, size: int) -> float:
    """How long a plan of an ONNX file of `size` bytes may take to build, from the plans in the cache."""
    rates = []
    for sidecar in folder.glob("*.json") if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(sidecar.read_text(encoding="utf-8"))
            if report["module"] == module:
                rates.append(report["seconds"] / (_FIXED + report["onnx_bytes"]))
    return (_FIXED + size) * (statistics.median(rates) if rates else FIRST_GUESS[module])
