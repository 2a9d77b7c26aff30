"""What no file may hold: paths of one machine, hosts of registries, leftovers; and what every public thing has: a docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("aigc_edge", "csrc", "tests", "tools", "benchmarks", "docs", ".ci")
TOP = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "mkdocs.yml",
    "CMakeLists.txt",
    ".gitignore",
    ".clang-format",
)
SUFFIXES = {".py", ".cpp", ".hpp", ".h", ".cu", ".cuh", ".c", ".css", ".json", ".cmake", ".txt", ".md", ".in", ".toml", ""}
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.$}])/(home|root|work|Users)/\w"),
    "a host of a package registry": re.compile(
        r"\b(files\.pythonhosted|pypi|download\.pytorch|pypi\.nvidia|deb\.debian)\.(org|com)\b"
    ),
    "a conflict marker": re.compile(r"^(<{7}|>{7}) ", re.MULTILINE),
    "a leftover": re.compile(r"\b(FIXME|XXX|breakpoint\(\)|pdb\.set_trace)"),
}


def files() -> list[Path]:
    inside = [p for place in PLACES for p in sorted((ROOT / place).rglob("*")) if p.is_file() and p.suffix in SUFFIXES]
    outside = [ROOT / name for name in TOP if (ROOT / name).is_file()]
    return [
        p for p in inside + outside if "__pycache__" not in p.parts and p != Path(__file__).resolve() and p.stat().st_size < 2**20
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for path in files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN[what].finditer(text)]
    assert found == []


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes at the top of a module whose name has no leading underscore."""
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]


# Functions whose meaning is the protocol they follow, said once in the package's docstring.
PROTOCOL = {"commands": {"configure", "run"}}


@pytest.mark.parametrize("path", sorted((ROOT / "aigc_edge").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_public_things_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = PROTOCOL.get(path.relative_to(ROOT / "aigc_edge").parts[0], set())
    lacking = [node.name for node in public(tree) if not ast.get_docstring(node) and node.name not in known]
    assert lacking == [], f"{path.name}: a sentence each"
    assert ast.get_docstring(tree), f"{path.name} says nothing of itself"


def test_top_level_is_what_was_agreed() -> None:
    allowed = {"csrc", "aigc_edge", "tools", "tests", "benchmarks", "CMakeLists.txt", "pyproject.toml"}
    allowed |= {"README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "docs", "mkdocs.yml"}
    made = {"build", "dist", "out", "runs"}  # ignored by git
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".aigc"}
    assert found - made <= allowed
