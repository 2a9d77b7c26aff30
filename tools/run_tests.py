"""Run the tests against the installed wheel, from a folder outside the repository; the last line is pytest's closing line.

Started by `make test` with the Python of .venv-test. Arguments are pytest's (`make test ARGS="-k program"`).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / ".venv-runtime" / "bin" / "python"
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "errors")
PLURALS = {"warning": "warnings", "error": "errors"}
CLOSING = re.compile(rf"(\d+) ({'|'.join(ORDER[:6])}|errors?|warnings?)\b(?=.* in \d)")  # of pytest's last line
NOTHING = 5  # pytest's exit code where no test was chosen


def import_cost(python: Path, folder: str, repeats: int = 9) -> float:
    """Median milliseconds that `import aigc_edge` takes after `import numpy`, each in a fresh process."""
    code = "import numpy, time; t = time.perf_counter(); import aigc_edge; print((time.perf_counter() - t) * 1e3)"
    times = [float(subprocess.check_output([python, "-c", code], cwd=folder, text=True)) for _ in range(repeats)]
    return statistics.median(times)


def groups() -> list[list[Path]]:
    """The folders of tests, one by one, and the files beside them: each is run in a process of its own, so that engines, which
    share memory allocators, threads and caches of a process, cannot spoil what other tests do there."""
    folders = [place for place in sorted((ROOT / "tests").iterdir()) if place.is_dir() and any(place.glob("**/test_*.py"))]
    return [*([folder] for folder in folders), sorted((ROOT / "tests").glob("test_*.py"))]


def run_group(command: list[str], folder: str, environment: dict[str, str]) -> tuple[int, Counter[str]]:
    """Run pytest, show what it says, and return its exit code with the numbers of its closing line."""
    last = ""
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        for line in job.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line if CLOSING.search(line) else last
    if job.returncode < 0:
        print(f"run_tests: the tests in {command[-1]} ended by signal {-job.returncode}", flush=True)
    return job.returncode, Counter({PLURALS.get(name, name): int(n) for n, name in CLOSING.findall(last)})


def main(arguments: list[str]) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["AIGC_EDGE_RUNTIME_PYTHON"] = str(RUNTIME)
    started = time.monotonic()
    # From the repository's root the flat layout would shadow the wheel: aigc_edge/ without its native core.
    with tempfile.TemporaryDirectory(prefix="aigc-edge-tests-") as folder:
        where = subprocess.check_output(
            [sys.executable, "-c", "import aigc_edge; print(aigc_edge.__file__)"], cwd=folder, text=True
        )
        if ROOT / "aigc_edge" in Path(where.strip()).parents:
            print(f"run_tests: {where.strip()} is the checkout, not the installed wheel: remove .venv-test", file=sys.stderr)
            return 2
        print(f"testing {where.strip()}")
        print(f"import aigc_edge costs {import_cost(RUNTIME, folder):.1f} ms beyond NumPy's own (to be under 50)", flush=True)
        options = ["-p", "no:cacheprovider", "--basetemp", str(Path(folder) / "tmp"), "-ra"]
        command = [sys.executable, "-m", "pytest", *options, *arguments]
        status, found = 0, Counter[str]()
        for group in groups():
            code, outcome = run_group([*command, *map(str, group)], folder, environment)
            found += outcome
            status = status or (0 if code == NOTHING else code)
    told = ", ".join(f"{count} {name}" for name, count in sorted(found.items(), key=lambda item: ORDER.index(item[0])))
    print(f"{'=' * 20} {told or 'no tests ran'} in {time.monotonic() - started:.2f}s {'=' * 20}", flush=True)
    print(f"tests took {time.monotonic() - started:.0f} s", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
