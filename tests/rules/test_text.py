"""What no file may hold: paths of one machine, hosts of registries, leftovers; and what every public thing has: a docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.rules.source import ROOT, parsed, python_sources

PLACES = ("aigc_edge", "csrc", "tests", "tools", "benchmarks", "docs", "examples", ".ci")
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
    places = {path.relative_to(ROOT).parts[0] for path in files()}
    assert {"aigc_edge", "csrc", "tests", "tools", "benchmarks", ".ci", "README.md"} <= places
    found = []
    for path in files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN[what].finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text", "right"),
    [
        ("a path of one machine", 'cache = "/home/somebody/cache"', False),
        ("a path of one machine", "cp -r /work/main x", False),
        ("a path of one machine", "build/work/x and {root}/home/x and $HOME/work/x", True),
        ("a host of a package registry", "pip install --index-url https://pypi.org/simple", False),
        ("a host of a package registry", "see https://pytorch.org/docs", True),
        ("a conflict marker", "a\n<<<<<<< HEAD\nb", False),
        ("a conflict marker", "a <<<<<<< b", True),
        ("a leftover", "x = 1  # FIXME", False),
        ("a leftover", "    breakpoint()", False),
        ("a leftover", "breakpoints()", True),
    ],
)
def test_what_is_forbidden_is_found(what: str, text: str, right: bool) -> None:
    assert (FORBIDDEN[what].search(text) is None) is right


def public(tree: ast.Module) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes at the top of a module whose name has no leading underscore."""
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]


# Functions whose meaning is the protocol they follow, said once in the package's docstring.
PROTOCOL = {"commands": {"configure", "run"}}


def undocumented(path: str, source: str) -> list[str]:
    """Public names of the module at `path` without a docstring; the path too where the module has none."""
    tree = parsed(source)
    known = PROTOCOL.get(path.split("/")[0], set())
    lacking = [node.name for node in public(tree) if not ast.get_docstring(node) and node.name not in known]
    return lacking if ast.get_docstring(tree) else [path, *lacking]


@pytest.mark.parametrize("path", python_sources())
def test_public_things_are_documented(path: str) -> None:
    assert undocumented(path, python_sources()[path]) == [], "a sentence each"


def test_what_is_not_documented_is_found() -> None:
    source = "def run(): ...\ndef other(): ...\ndef _own(): ...\nclass A:\n    def b(self): ...\nclass C:\n    'A sentence.'\n"
    assert undocumented("bench/x.py", source) == ["bench/x.py", "run", "other", "A"]
    assert undocumented("commands/x.py", f"'Says it.'\n{source}") == ["other", "A"]


def test_top_level_is_what_was_agreed() -> None:
    allowed = {"csrc", "aigc_edge", "tools", "tests", "benchmarks", "CMakeLists.txt", "pyproject.toml"}
    allowed |= {"README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "docs", "examples", "mkdocs.yml"}
    made = {"build", "dist", "out", "runs"}  # ignored by git
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".aigc"}
    assert found - made <= allowed
