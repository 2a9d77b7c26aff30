"""ruff, mypy and clang-format have nothing to say; warnings are errors. `make test` runs each of them here and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rules.source import CSRC, ROOT
from tests.scripts import TOOLS, load_script

LINT = load_script("lint")
WRONG = {
    "ruff check": ("aigc_edge/wrong.py", "import os\n"),
    "ruff format": ("tools/wrong.py", "x  =  1\n"),
    "mypy": ("aigc_edge/wrong.py", "def f() -> int:\n    return 'text'\n"),
    "clang-format": ("csrc/core/wrong.hpp", "int  x ;\n"),
}


@pytest.mark.parametrize("name", LINT.commands())
def test_checker_is_content(name: str) -> None:
    done = subprocess.run(LINT.commands()[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize("name", LINT.commands())
def test_checker_sees_every_folder_and_what_is_wrong_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("pyproject.toml", ".clang-format"):
        shutil.copyfile(ROOT / file, tmp_path / file)
    for folder in ("aigc_edge", "tools", "tests", "benchmarks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"right_{folder}.py").write_text('"""Nothing is wrong here."""\n')
    (tmp_path / "csrc" / "core").mkdir(parents=True)
    (tmp_path / "csrc" / "core" / "right.hpp").write_text("int x;\n")
    monkeypatch.setattr(LINT, "ROOT", tmp_path)
    done = subprocess.run(LINT.commands()[name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    path, text = WRONG[name]
    (tmp_path / path).write_text(text)
    done = subprocess.run(LINT.commands()[name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "wrong" in done.stdout + done.stderr


def test_all_sources_are_checked() -> None:
    commands = LINT.commands()
    assert {str(path) for path in CSRC.rglob("*.cpp")} < set(commands["clang-format"])
    for name in ("ruff check", "ruff format"):
        assert {"aigc_edge", "tests", TOOLS.name, "benchmarks"} <= set(commands[name])
