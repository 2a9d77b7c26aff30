"""Cold start and peak memory of one configuration, each taken in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError

STAGES = ("interpreter", "import", "open", "first_image")
# Not `-m`: that puts the current folder first on the path, where a checkout would shadow the installed package.
_START = (
    "import sys, time; begun = time.perf_counter(); sys.path[:] = [p for p in sys.path if p]; "
    "from aigc_edge.bench import child; child.main(begun)"
)


def peak_bytes() -> int:
    """The largest resident memory of this process so far, in bytes.

    VmHWM rather than ru_maxrss: the latter counts what the parent held when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def measure(workload: Any, key: str, batch: int) -> dict[str, Any]:
    """Start a process that opens this configuration and draws one image, then a few more and a batch.

    Returns, in seconds, how long it took until the interpreter runs ("interpreter"), the code is imported ("import"), the bundle
    is open ("open"), the first image is there ("first_image"), and the sum ("total"); and peak bytes after batch 1 and `batch`.
    """
    task = json.dumps({"workload": workload.to_json(), "key": key, "batch": batch})
    environment = os.environ | {"OMP_NUM_THREADS": str(workload.threads)}
    started = time.perf_counter()  # the clock is the system's monotonic one, the same in both processes
    done = subprocess.run(
        [sys.executable, "-c", _START], input=task, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AigcEdgeError(f"the configuration {key} failed in a process of its own ({reason}): leave it out or mend it")
    stamps = json.loads(done.stdout.splitlines()[-1])
    times = [started, stamps["begun"], stamps["imported"], stamps["opened"], stamps["first"]]
    seconds = dict(zip(STAGES, (end - begin for begin, end in itertools.pairwise(times)), strict=True))
    seconds["total"] = times[-1] - started
    return {"seconds": seconds, "peak_bytes": {"1": stamps["peak_1"], str(batch): stamps["peak_batch"]}}


def main(begun: float) -> None:
    """What the started process does: the task stands on stdin, the stamps go to stdout."""
    task = json.loads(sys.stdin.read())
    from aigc_edge.bench.runner import RUNNERS, Workload

    name, _, format = task["key"].partition("-")
    runner = RUNNERS[name]
    workload = Workload.from_json(task["workload"])
    imported = time.perf_counter()
    opened = runner(workload, format)
    ready = time.perf_counter()
    opened.generate(1, 0, workload.labels(1))
    first = time.perf_counter()
    for seed in range(1, 4):
        opened.generate(1, seed, workload.labels(1))
    peak = peak_bytes()
    opened.generate(task["batch"], 0, workload.labels(task["batch"]))
    larger = max(peak, peak_bytes())  # the kernel's own figure is kept in shares of threads and may step back by some pages
    opened.close()
    stamps = {"begun": begun, "imported": imported, "opened": ready, "first": first, "peak_1": peak, "peak_batch": larger}
    print(json.dumps(stamps))
