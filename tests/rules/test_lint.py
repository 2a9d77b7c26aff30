"""ruff, mypy and clang-format have nothing to say; warnings are errors."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _commands() -> dict[str, list[str]]:
    spec = importlib.util.spec_from_file_location("aigc_edge_tools_lint", ROOT / "tools" / "lint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, list[str]] = module.commands()
    return found


@pytest.mark.parametrize("name", list(_commands()))
def test_checker_is_content(name: str) -> None:
    done = subprocess.run(_commands()[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
