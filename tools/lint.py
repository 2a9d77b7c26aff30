"""Run every checker of style and types over the repository; exits with 1 when one complains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_PLACES = ("aigc_edge", "tests", "tools", "benchmarks", "examples")
NATIVE_SUFFIXES = {".cpp", ".hpp", ".h", ".cu", ".cuh", ".c"}


def native_files() -> list[str]:
    """All C++ and CUDA sources of the project."""
    places = [ROOT / "csrc", ROOT / "tests", ROOT / "examples"]
    return sorted(str(file) for place in places for file in place.rglob("*") if file.suffix in NATIVE_SUFFIXES)


def commands() -> dict[str, list[str]]:
    """Name of a check → its command, to be run in the repository's root."""
    python = [sys.executable, "-m"]
    places = [place for place in PYTHON_PLACES if any((ROOT / place).rglob("*.py"))]
    return {
        "ruff check": [*python, "ruff", "check", *places],
        "ruff format": [*python, "ruff", "format", "--check", *places],
        "mypy": [*python, "mypy", "aigc_edge", "tools"],
        "clang-format": [str(Path(sys.executable).with_name("clang-format")), "--dry-run", "-Werror", *native_files()],
    }


def main() -> int:
    failed = []
    for name, command in commands().items():
        print(f"{name} …", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all clean")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
