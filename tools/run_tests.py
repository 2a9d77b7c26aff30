"""Run the tests against the installed wheel, from a folder outside the repository; the last line is pytest's closing line.

Started by `make test` with the Python of .venv-test. Arguments are pytest's (`make test ARGS="-k program"`). Each folder of tests
has a process of its own, two run at a time, and what one prints is shown when it ends. Ctrl-C ends them all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / ".venv-runtime" / "bin" / "python"
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "errors")
PLURALS = {"warning": "warnings", "error": "errors"}
CLOSING = re.compile(rf"(\d+) ({'|'.join(ORDER[:6])}|errors?|warnings?)\b(?=.* in \d)")  # of pytest's last line
NOTHING = 5  # pytest's exit code where no test was chosen
WORKERS = 2
# These take longest, in this order, and begin first: so no process works alone for long in the end.
LONGEST_FIRST = ("compress", "cpp", "rules", "compile", "runtime", "diffusion", "sources", "engines", "tests")
GRACE = 10.0  # seconds that tests have to end after Ctrl-C


@dataclass
class Job:
    """The tests of one folder in a process, and a session, of their own."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    started: float

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass(frozen=True)
class Outcome:
    """How the tests of one folder ended: pytest's exit code and its output."""

    name: str
    code: int
    output: str
    seconds: float

    def counts(self) -> Counter[str]:
        """The numbers of pytest's closing line."""
        closing = [line for line in self.output.splitlines() if CLOSING.search(line)]
        found = Counter({PLURALS.get(name, name): int(n) for n, name in CLOSING.findall(closing[-1])} if closing else {})
        if self.code not in (0, NOTHING) and not found["failed"] + found["errors"]:
            found["errors"] += 1  # it crashed, or no test could begin
        return found


def import_cost(python: Path, folder: str | Path, repeats: int = 9) -> float:
    """Median milliseconds that `import aigc_edge` takes after `import numpy`, each in a fresh process."""
    code = "import numpy, time; t = time.perf_counter(); import aigc_edge; print((time.perf_counter() - t) * 1e3)"
    times = [float(subprocess.check_output([python, "-c", code], cwd=folder, text=True)) for _ in range(repeats)]
    return statistics.median(times)


def groups(tests: Path) -> dict[str, list[str]]:
    """Name of a group → its folder; "tests" are the files that lie in none. Each is run in a process of its own, so that engines,
    which share memory allocators, threads and caches of a process, cannot spoil what other tests do there."""
    folders = [path for path in sorted(tests.iterdir()) if path.is_dir() and any(path.glob("**/test_*.py"))]
    files = [str(path) for path in sorted(tests.glob("test_*.py"))]
    every = {folder.name: [str(folder)] for folder in folders} | ({tests.name: files} if files else {})
    first = {name: every[name] for name in LONGEST_FIRST if name in every}
    return first | every


def run_groups(
    commands: Mapping[str, list[str]], folder: Path, environment: Mapping[str, str], workers: int = WORKERS
) -> Generator[Outcome, None, None]:
    """Run commands, `workers` at a time, and yield each outcome. All are ended when the iterator is closed or raises."""
    waiting, running = list(commands.items()), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(start(*waiting.pop(0), folder, environment))
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                shutil.rmtree(folder / job.name, ignore_errors=True)
                yield Outcome(job.name, job.process.returncode, job.output(), time.monotonic() - job.started)
            time.sleep(0.05)
    finally:
        end(running)


def start(name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> Job:
    """Start a group with a folder for temporary files and caches; its own session lets Ctrl-C reach this process alone."""
    place = folder / name
    place.mkdir()
    own = {**environment, "XDG_CACHE_HOME": str(place / "cache")}
    command = [*command, "--basetemp", str(place / "tmp")]
    log = folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    return Job(name, process, log, time.monotonic())


def end(running: list[Job]) -> None:
    """Interrupt what still runs, show what it printed, and kill what is left after a while."""
    if running:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave some of them alone
    for job in running:
        job.signal(signal.SIGINT)
    until = time.monotonic() + GRACE
    for job in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.process.wait(max(0.0, until - time.monotonic()))
        job.signal(signal.SIGKILL)
        job.process.wait()
        print(f"{job.output()}\nrun_tests: {job.name} was interrupted", flush=True)


def show(outcome: Outcome) -> None:
    """Print the output of a group, whole, and its name, exit code and time."""
    ended = f"ended by signal {-outcome.code}" if outcome.code < 0 else f"exit code {outcome.code}"
    print(f"{outcome.output}run_tests: {outcome.name}, {ended} after {outcome.seconds:.0f} s", flush=True)


def test(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> int:
    """Run all groups and print the closing line; returns the exit code of the first that failed."""
    started, status, total = time.monotonic(), 0, Counter[str]()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", *arguments]
    commands = {name: [*command, *paths] for name, paths in groups(ROOT / "tests").items()}
    with contextlib.closing(run_groups(commands, folder, environment)) as outcomes:
        for outcome in outcomes:
            show(outcome)
            total += outcome.counts()
            status = status or (0 if outcome.code == NOTHING else outcome.code)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(total.items(), key=lambda item: ORDER.index(item[0])))
    print(f"{'=' * 20} {counts or 'no tests ran'} in {time.monotonic() - started:.2f}s {'=' * 20}", flush=True)
    return status


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # unwinds, so that no test goes on alone


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, terminate)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["AIGC_EDGE_RUNTIME_PYTHON"] = str(RUNTIME)
    # Two processes share the cores: neither is to hold them while it waits.
    shared = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // WORKERS)), "OMP_WAIT_POLICY": "PASSIVE"}
    # From the repository's root the flat layout would shadow the wheel: aigc_edge/ without its native core.
    with tempfile.TemporaryDirectory(prefix="aigc-edge-tests-", ignore_cleanup_errors=True) as folder:
        where = subprocess.check_output(
            [sys.executable, "-c", "import aigc_edge; print(aigc_edge.__file__)"], cwd=folder, env=environment, text=True
        )
        if ROOT / "aigc_edge" in Path(where.strip()).parents:
            print(f"run_tests: {where.strip()} is the checkout, not the installed wheel: remove .venv-test", file=sys.stderr)
            return 2
        print(f"testing {where.strip()}")
        print(f"import aigc_edge costs {import_cost(RUNTIME, folder):.1f} ms beyond NumPy's own (to be under 50)", flush=True)
        try:
            return test(arguments, Path(folder), shared | environment)
        except KeyboardInterrupt:
            print("run_tests: interrupted", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
