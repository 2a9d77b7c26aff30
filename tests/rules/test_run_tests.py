"""tools/run_tests.py: groups side by side, each with its output whole, none left behind; and a closing line like pytest's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules.source import ROOT
from tests.scripts import load_script

RUN = load_script("run_tests")
# Python for a process that writes its number and that of a child to a file, and then waits.
HANGS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("half of a li", end="", flush=True)
with open(sys.argv[1] + ".part", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""
WAITS = """
import os, sys, time
open(sys.argv[1], "w").close()
until = time.monotonic() + 120
while not os.path.exists(sys.argv[2]) and time.monotonic() < until: time.sleep(0.01)
sys.exit(0 if os.path.exists(sys.argv[2]) else 3)
"""


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def python(code: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_every_test_is_in_one_group_and_the_longest_come_first() -> None:
    found = RUN.groups(ROOT / "tests")
    modules = [
        path
        for paths in found.values()
        for name in paths
        for path in ([Path(name)] if name.endswith(".py") else Path(name).rglob("test_*.py"))
    ]
    assert Counter(modules) == Counter((ROOT / "tests").rglob("test_*.py"))
    assert list(found)[: len(RUN.LONGEST_FIRST)] == list(RUN.LONGEST_FIRST)


def test_two_run_at_a_time_and_outcomes_come_as_they_end(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    commands = {
        "one": python(WAITS, first, second),
        "two": python(WAITS, second, first),
        "three": python("import os; print(os.environ['XDG_CACHE_HOME'], os.environ['OWN']); os._exit(5)"),
    }
    found = {outcome.name: outcome for outcome in RUN.run_groups(commands, tmp_path, os.environ | {"OWN": "value"}, workers=2)}
    assert {name: outcome.code for name, outcome in found.items()} == {"one": 0, "two": 0, "three": 5}
    assert found["three"].output == f"{tmp_path / 'three' / 'cache'} value\n"
    assert not (tmp_path / "three").exists()


def gone(pid: int) -> bool:
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_none_is_left_when_the_runner_is_interrupted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    note = tmp_path / "note"
    outcomes = RUN.run_groups({"hangs": python(HANGS, note), "ends": python(WAITS, tmp_path / "x", note)}, tmp_path, os.environ)
    assert next(outcomes).name == "ends"
    outcomes.close()
    assert all(gone(int(pid)) for pid in note.read_text().split())
    said = capfd.readouterr().out
    assert said.startswith("half of a li")
    assert said.endswith("run_tests: hangs was interrupted\n")


@pytest.mark.parametrize(
    ("code", "last", "expected"),
    [
        (0, "== 3 passed, 1 skipped, 2 warnings in 1.5s ==", {"passed": 3, "skipped": 1, "warnings": 2}),
        (1, "= 1 failed, 2 passed, 1 warning in 61.00s (0:01:01) =", {"failed": 1, "passed": 2, "warnings": 1}),
        (2, "= 2 errors in 1.00s =", {"errors": 2}),
        (5, "= 7 deselected in 0.01s =", {"deselected": 7}),
        (-11, "Fatal Python error: Segmentation fault", {"errors": 1}),
        (0, "in 3 passed words", {}),
    ],
)
def test_the_numbers_of_a_closing_line(code: int, last: str, expected: dict[str, int]) -> None:
    outcome = RUN.Outcome(
        "x", code, f"= 9 passed in 1 s in a test's own output =\n{last}\n" if expected and "in" in last else f"{last}\n", 1.0
    )
    assert outcome.counts() == expected


def test_the_closing_line_sums_up_and_the_exit_code_is_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tests = tmp_path / "tests"
    for name, code in (("a", "def test_a(): pass"), ("b", "def test_b(): assert False"), ("c", "def test_a(): pass")):
        (tests / name).mkdir(parents=True)
        (tests / name / f"test_{name}.py").write_text(code)
    (tests / "test_top.py").write_text("import pytest\n@pytest.mark.parametrize('x', [1, 2])\ndef test_a(x): pass")
    monkeypatch.setattr(RUN, "ROOT", tmp_path)
    folder = tmp_path / "work"
    folder.mkdir()
    environment = {**os.environ, "COLUMNS": "80"}
    assert RUN.test(["-k", "not test_c"], folder, environment) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1].startswith("=" * 20 + " 1 failed, 3 passed, 1 deselected in ")
    assert lines[-1].endswith("s " + "=" * 20)
    assert sorted(line.partition(" after")[0] for line in lines if line.startswith("run_tests: ")) == [
        "run_tests: a, exit code 0",
        "run_tests: b, exit code 1",
        "run_tests: c, exit code 5",
        "run_tests: tests, exit code 0",
    ]


def test_a_runner_that_is_terminated_ends_its_groups(tmp_path: Path) -> None:
    """As `make` does at Ctrl-C: the signal meets the runner alone, its groups have sessions of their own."""
    note = tmp_path / "note"
    code = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(ROOT / "tools")!r})
import run_tests
signal.signal(signal.SIGTERM, run_tests.terminate)
for _ in run_tests.run_groups({{"hangs": {python(HANGS, note)!r}}}, pathlib.Path({str(tmp_path)!r}), os.environ): pass
"""
    with subprocess.Popen(python(code), stdout=subprocess.DEVNULL) as runner:
        while not note.exists():
            assert runner.poll() is None
            time.sleep(0.02)
        runner.terminate()
        assert runner.wait(timeout=120) == 128 + signal.SIGTERM
    assert all(gone(int(pid)) for pid in note.read_text().split())
