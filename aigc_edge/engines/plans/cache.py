"""The cache of built plans, each with its report as JSON beside it; the least recently used plans are evicted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_edge.files import cache_folder, sha256_of, write_json

_IN_USE = 3600.0  # seconds that another process may need to copy a plan
_FIXED = 20e6  # fixed cost of a build, expressed in bytes of ONNX
FIRST_GUESS = {"tensorrt_rtx": 1.5e-8, "tensorrt": 3e-7}  # seconds per byte; the first is measured, the second assumed
_STALE = 86400.0  # age in seconds at which partial files of killed processes are removed


def plans_folder() -> Path:
    """The folder of the plan cache."""
    return cache_folder() / "plans"


def timings_file(name: str) -> Path:
    """The timing cache of one module, version and device."""
    return cache_folder() / "timing" / f"{name}.cache"


def find(file: Path) -> dict[str, Any] | None:
    """The report of the plan `file` if both are intact (marking it as recently used), else None."""
    sidecar = file.with_suffix(".json")
    try:
        report: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        if report.pop("report_sha256") != digest(report) or sha256_of(file) != report["plan_sha256"]:
            return None
        os.utime(sidecar)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return report


def store(file: Path, report: Mapping[str, Any]) -> None:
    """Write the report beside the plan `file`, with its own digest."""
    write_json(file.with_suffix(".json"), {**report, "report_sha256": digest(report)}, durable=True)


def digest(report: Mapping[str, Any]) -> str:
    """The SHA-256 of a report, of its JSON without whitespace and in the order of its names."""
    text = json.dumps(report, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def evict(folder: Path, limit: float, keep: Path) -> list[Path]:
    """Remove the least recently used plans until the rest takes at most `limit` bytes, and stale partial files.

    `keep` and plans used within the last hour are not removed. Returns the removed plans.
    """
    now, plans, total = time.time(), [], 0
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            size, last_used = file.stat().st_size, file.stat().st_mtime
            if file.suffix == ".plan" and not file.name.startswith("."):
                sidecar = file.with_suffix(".json")
                last_used = sidecar.stat().st_mtime if sidecar.exists() else last_used
                total += size
                plans.append((last_used, size, file))
            elif now - last_used > _STALE and (file.suffix == ".part" or not file.with_suffix(".plan").exists()):
                file.unlink()
    removed = []
    for last_used, size, file in sorted(plans):
        if total <= limit:
            break
        if file == keep or now - last_used < _IN_USE:
            continue
        with contextlib.suppress(OSError):
            file.unlink()
            file.with_suffix(".json").unlink(missing_ok=True)
            total -= size
            removed.append(file)
    return removed


def typical_seconds(folder: Path, module: str, size: int) -> float:
    """Estimated build time for an ONNX file of `size` bytes, from the plans in the cache."""
    rates = []
    for sidecar in folder.glob("*.json") if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(sidecar.read_text(encoding="utf-8"))
            if report["module"] == module:
                rates.append(report["seconds"] / (_FIXED + report["onnx_bytes"]))
    return (_FIXED + size) * (statistics.median(rates) if rates else FIRST_GUESS[module])
