"""Run the tests against the installed wheel, from a folder outside the repository; the last line is pytest's closing line.

Started by `make test` with the Python of .venv-test. Arguments are pytest's (`make test ARGS="-k program"`).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / ".venv-runtime" / "bin" / "python"


def import_cost(python: Path, folder: str, repeats: int = 9) -> float:
    """Median milliseconds that `import aigc_edge` takes after `import numpy`, each in a fresh process."""
    code = "import numpy, time; t = time.perf_counter(); import aigc_edge; print((time.perf_counter() - t) * 1e3)"
    times = [float(subprocess.check_output([python, "-c", code], cwd=folder, text=True)) for _ in range(repeats)]
    return statistics.median(times)


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
        command = [sys.executable, "-m", "pytest", *options, str(ROOT / "tests"), *arguments]
        status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    print(f"tests took {time.monotonic() - started:.0f} s", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
