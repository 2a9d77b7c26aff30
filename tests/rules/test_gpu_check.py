"""tools/gpu_check.sh: its words, that it names what exists, and what it says where there is no GPU."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "gpu_check.sh"
TEXT = SCRIPT.read_text(encoding="utf-8")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPT, *arguments], text=True, capture_output=True, env=os.environ | environment, check=False)


def test_what_it_runs_exists() -> None:
    found = re.search(r"^TESTS=\((.*?)\)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    names = found.group(1).split()
    assert len(names) >= 5
    assert all((ROOT / "tests" / name).exists() for name in names)
    assert (ROOT / "benchmarks" / "gpu.py").is_file()
    assert os.access(SCRIPT, os.X_OK)


def test_the_limits_of_all_stages_are_under_25_minutes() -> None:
    found = re.search(r"^STAGES=\((.*)\)", TEXT, re.MULTILINE)
    assert found is not None
    limits = dict(re.findall(r"\[(\w+)\]=(\d+)", TEXT))
    assert list(limits) == found.group(1).split()
    assert sum(map(int, limits.values())) <= 25 * 60
    assert all(f"\n{stage}() {{" in TEXT for stage in limits)


def test_a_wrong_stage_and_a_missing_gpu_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    done = run("paint")
    assert (done.returncode, done.stderr) == (
        64,
        "gpu_check: there is no stage 'paint': choose of environment build device tests engines benchmark\n",
    )
    done = run(PYTHON="no-such-python")
    assert (done.returncode, "there is no no-such-python" in done.stderr) == (64, True)
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    done = run(PYTHON=str(without))
    assert (done.returncode, "has no torch that finds a GPU" in done.stderr) == (64, True)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The script in a folder of its own, with stages that need no torch."""
    text = re.sub(r"^(environment|build|tests|engines|benchmark)\(\) \{.*?^\}", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    stages = "environment() { echo one; }\nbuild() { echo bad; return 3; }\ntests() { sleep 30; }\n"
    stages += "engines() { echo plans; }\nbenchmark() { echo four; }\n"
    text = text.replace("main() {", stages + "main() {").replace("[tests]=420", "[tests]=1")
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "gpu_check.sh"
    script.write_text(text, encoding="utf-8")
    return script


def test_stages_that_fail_or_hang_are_named_and_the_next_go_on(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    environment = os.environ | {"DEVICE": "cpu", "OUT": str(out)}
    done = subprocess.run(["bash", copied], text=True, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    lines = [re.sub(r", \d+ s$", "", line) for line in done.stdout.split("== summary\n")[1].splitlines()]
    assert lines == [
        "environment: passed",
        "build: FAILED (exit code 3)",
        "tests: FAILED (longer than 1 s)",
        "engines: passed",
        "benchmark: passed",
    ]
    assert {path.name for path in out.iterdir()} == {
        f"{stage}.log" for stage in ("environment", "build", "tests", "engines", "benchmark")
    }
    assert (out / "build.log").read_text() == "bad\n"
