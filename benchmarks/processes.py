"""Work in processes of its own, whose memory is theirs alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def peak() -> int:
    """Peak memory of this process in bytes; ru_maxrss would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def child(script: str, *words: str) -> dict[str, Any]:
    """What `script --child words…` says in its last line, as JSON."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, script, "--child", *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {ran.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found
