"""The fingerprint says what kind of machine it is and never which one."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

import pytest

from aigc_edge.bench import machine


def test_fingerprint_names_no_machine_and_no_user() -> None:
    said = json.dumps([machine.fingerprint(), machine.busy()])
    assert str(Path.home()) not in said
    words = {word.strip('",:[]{}()').lower() for word in said.split()}
    assert socket.gethostname().lower() not in words
    assert getpass.getuser().lower() not in words


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="/proc/cpuinfo is Linux's")
def test_fingerprint_is_what_the_system_says() -> None:
    found, text = machine.fingerprint(), Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["cpu"] in text or "model name" not in text
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith(("flags", "Features"))), [])
    assert found["flags"] == [flag for flag in machine.FLAGS if flag in flags]
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert found["memory_gib"] == pytest.approx(total / 2**20, abs=0.1)
