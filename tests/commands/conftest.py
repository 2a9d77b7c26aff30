"""The command line in a process of its own, as a user meets it: a failure is one sentence on stderr and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

START = "import sys; sys.path[:] = [p for p in sys.path if p]; from aigc_edge.cli import main; sys.exit(main())"
# Runs with a package that is not there: stands for an engine or an extra that was not installed.
WITHOUT = """
import importlib.util, sys
missing = {name!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] == missing else found(name, package)
"""


class CommandLine:
    """Runs `aigc-edge` in `folder`, and looks at what it leaves there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *arguments: str | Path, before: str = "") -> list[str]:
        """The whole command; `before` is code that runs first in the same process."""
        return [sys.executable, "-c", f"{before}\n{START}", *map(str, arguments)]

    def run(self, *arguments: str | Path, before: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        environment = {k: v for k, v in os.environ.items() if k != "AIGC_EDGE_DEBUG"} | {"OMP_NUM_THREADS": "1"}
        command = self.command(*arguments, before=before)
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600, "check": False}
        return subprocess.run(command, cwd=folder or self.folder, env=environment, **options)

    def left(self, folder: Path | None = None) -> set[str]:
        """Everything below the folder, hidden and temporary files included."""
        place = folder or self.folder
        return {str(path.relative_to(place)) for path in place.rglob("*")}

    def refuse(self, *arguments: str | Path, says: tuple[str, ...], before: str = "", folder: Path | None = None) -> str:
        """Run; expect one sentence with all of `says`, exit code 2 and not one file more or less. Returns the sentence."""
        there = self.left(folder)
        done = self.run(*arguments, before=before, folder=folder)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("aigc-edge: ")
        for part in says:
            assert part in lines[0], f"{part!r} is not in: {lines[0]}"
        assert self.left(folder) == there, self.left(folder) ^ there
        return lines[0]

    def without(self, module: str) -> str:
        """Code for `before` that makes a package look as if it were not installed."""
        return WITHOUT.format(name=module)


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """`aigc-edge` in an empty folder (beside `own_bundle`, digits.aigc, where a test asks for that)."""
    return CommandLine(tmp_path)
