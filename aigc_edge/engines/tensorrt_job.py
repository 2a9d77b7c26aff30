"""Runs the process that builds one plan: watches its time and memory, ends it, and says in a sentence what became of it."""

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

# What a process says, in Python, C++ and the loader of libraries, that may not have more.
_OUT_OF_MEMORY = re.compile(r"bad_alloc|MemoryError|failed to map segment|[Cc]annot allocate memory|[Oo]ut of (host )?memory")
_GPU_OUT_OF_MEMORY = re.compile(r"cuda[^;\n]*out of memory|cudaErrorMemoryAllocation|Error Code 2: OutOfMemory", re.IGNORECASE)
_SLICE = 0.05


def run_job(
    job: dict[str, Any], what: str, report: Path, *, seconds: float, waiting: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Run the job (see tensorrt_build) and return its report; `waiting(elapsed)` is called meanwhile.

    Raises AigcEdgeError, beginning with `what`, when it fails, dies, or takes more than `seconds` or its memory. The process ends
    before the call does.
    """
    began, memory = time.monotonic(), int(job["memory"])
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command(job), env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        too_large = False
        try:
            while process.poll() is None:
                elapsed = time.monotonic() - began
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
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    problem = f"{found.get('error', '')} {said}" if code else ""
    if _GPU_OUT_OF_MEMORY.search(problem):
        raise AigcEdgeError(f"{what} ran out of GPU memory: close what else uses it, or take smaller batches or workspace_gb")
    if too_large or _OUT_OF_MEMORY.search(problem):
        limit = f"its memory limit of {memory / 2**30:.3g} GB"
        raise AigcEdgeError(f"{what} reached {limit}: allow more memory or build on a larger machine")
    if code == -signal.SIGKILL:
        raise AigcEdgeError(f"{what} was killed (SIGKILL): most often memory ran out; free some or build on a larger machine")
    if code < 0:
        name = signal.Signals(-code).name
        raise AigcEdgeError(f"{what} crashed ({name}) inside TensorRT: try another version of it, or another format")
    if "error" in found:
        raise AigcEdgeError(str(found["error"]))
    if code or not found:
        last = (said.strip().splitlines() or ["it printed nothing"])[-1]
        raise AigcEdgeError(f"{what} failed with exit code {code}: {last}")
    return found


def command(job: dict[str, Any]) -> list[str]:
    """The command line of the process."""
    return [sys.executable, "-m", "aigc_edge.engines.tensorrt_build", json.dumps(job)]


def machine_gb() -> float:
    """The machine's memory in GB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 16.0


def _environment() -> dict[str, str]:
    # The child must find the very package that runs here, however the parent found it; what PYTHONPATH names goes first, as here.
    root = str(Path(aigc_edge.__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), root]))}


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
