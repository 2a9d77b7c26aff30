"""Runs the process that builds one plan, enforces its time and memory limits and turns failures into one-sentence errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aigc_edge
from aigc_edge.errors import AigcEdgeError

# Out-of-memory messages of Python, C++ and the dynamic loader.
_OUT_OF_MEMORY = re.compile(r"bad_alloc|MemoryError|failed to map segment|[Cc]annot allocate memory|[Oo]ut of (host )?memory")
_GPU_OUT_OF_MEMORY = re.compile(r"cuda[^;\n]*out of memory|cudaErrorMemoryAllocation|Error Code 2: OutOfMemory", re.IGNORECASE)
_SLICE = 0.05


def run_job(
    job: dict[str, Any], what: str, report: Path, *, seconds: float, waiting: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Run the job (see `build`) and return its report, calling `waiting(elapsed)` periodically.

    Raises AigcEdgeError, beginning with `what`, when it fails, is killed, or exceeds `seconds` or its memory limit. The
    process has ended when this function returns.
    """
    start, memory = time.monotonic(), int(job["memory"])
    with tempfile.TemporaryFile() as stderr_file:
        process = subprocess.Popen(
            command(job), env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr_file
        )
        too_large = False
        try:
            while process.poll() is None:
                elapsed = time.monotonic() - start
                if elapsed > seconds:
                    message = (
                        f"{what} took longer than {seconds:g} s and was stopped: allow more time or build on a faster machine"
                    )
                    raise AigcEdgeError(message)
                too_large = _resident(process.pid) > memory
                if too_large:
                    break
                if waiting is not None:
                    waiting(elapsed)
                time.sleep(min(_SLICE, elapsed / 10 + 0.005))
        finally:  # Ctrl-C and SIGTERM too
            process.kill()
            code = process.wait()
        stderr_file.seek(0)
        stderr = stderr_file.read().decode(errors="replace")
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    output = f"{result.get('error', '')} {stderr}" if code else ""
    if _GPU_OUT_OF_MEMORY.search(output):
        raise AigcEdgeError(
            f"{what} ran out of GPU memory: close other programs on it, or reduce the batch sizes or workspace_gb"
        )
    if too_large or _OUT_OF_MEMORY.search(output):
        limit = f"its memory limit of {memory / 2**30:.3g} GB"
        raise AigcEdgeError(f"{what} reached {limit}: allow more memory or build on a larger machine")
    if code == -signal.SIGKILL:
        raise AigcEdgeError(f"{what} was killed (SIGKILL): most likely out of memory; free some or build on a larger machine")
    if code < 0:
        name = signal.Signals(-code).name
        raise AigcEdgeError(f"{what} crashed ({name}) inside TensorRT: try another version of it, or another format")
    if "error" in result:
        raise AigcEdgeError(str(result["error"]))
    if code or not result:
        last = (stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise AigcEdgeError(f"{what} failed with exit code {code}: {last}")
    return result


def command(job: dict[str, Any]) -> list[str]:
    """Command line of the build process."""
    return [sys.executable, "-m", "aigc_edge.engines.plans.build", json.dumps(job)]


def machine_gb() -> float:
    """The machine's memory in GB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 16.0


def _environment() -> dict[str, str]:
    # The child must import the same package as the parent; PYTHONPATH keeps its precedence.
    root = str(Path(aigc_edge.__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), root]))}


def _resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 where the system does not report it."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
