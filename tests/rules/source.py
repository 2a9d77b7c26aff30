"""What the rules read: the modules of the package, what they import and the names they use; and the list of layers."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aigc_edge"
CSRC = ROOT / "csrc"
NATIVE_SUFFIXES = {".cpp", ".hpp", ".h", ".cu", ".cuh"}
LAYERS = re.compile(r"^```layers\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Imported(NamedTuple):
    """One import statement's module and, for `from module import name`, the name."""

    module: str
    name: str | None
    line: int
    in_function: bool


def layers(text: str | None = None) -> dict[str, int]:
    """Rank of every part in the layers block of docs/design.md (or of `text`), the lowest layer is 0."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8") if text is None else text
    blocks = LAYERS.findall(text)
    assert len(blocks) == 1, f"docs/design.md has {len(blocks)} blocks of layers: one is needed"
    names = [(name, rank) for rank, line in enumerate(blocks[0].splitlines()) for name in line.split()]
    assert len(dict(names)) == len(names) > 0, "a part stands in the layers block twice, or there is none"
    return dict(names)


@functools.cache
def python_sources() -> dict[str, str]:
    """Path relative to the package → source, of every Python module."""
    return {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def native_sources() -> dict[str, str]:
    """Path relative to csrc → source, of every C, C++ and CUDA file."""
    files = sorted(p for p in CSRC.rglob("*") if p.suffix in NATIVE_SUFFIXES)
    return {p.relative_to(CSRC).as_posix(): p.read_text(encoding="utf-8") for p in files}


@functools.cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def imports(tree: ast.AST, *, in_function: bool = False) -> Iterator[Imported]:
    """Every import that runs; imports under TYPE_CHECKING do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(ast.Module([other], []), in_function=in_function)
            continue
        if isinstance(node, ast.Import):
            yield from (Imported(alias.name, None, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer: write the full name"
            yield from (Imported(str(node.module), alias.name, node.lineno, in_function) for alias in node.names)
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports(node, in_function=in_function or inner)


def module_name(path: str) -> str:
    """bench/cells.py → aigc_edge.bench.cells, bench/__init__.py → aigc_edge.bench."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(["aigc_edge", *parts[: -1 if parts[-1] == "__init__" else None]])


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module → modules of `sources` that it imports, within functions too. `from package import module` is an import of the
    module; that it also runs the package's own file first is left out, and so is `aigc_edge` itself, which imports when asked."""
    modules = {module_name(path) for path in sources} - {"aigc_edge"}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for path, source in sources.items():
        for item in imports(parsed(source)):
            target = f"{item.module}.{item.name}" if f"{item.module}.{item.name}" in modules else item.module
            graph.get(module_name(path), set()).update({target} & modules)
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of two or more modules that import each other in a circle: the strongly connected components of the graph."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            if (node := todo.pop()) not in seen:
                seen.add(node)
                todo += graph[node]
        return seen

    reach = {node: reachable(node) for node in graph}
    found: list[set[str]] = []
    for node in sorted(graph):
        if node in reach[node] and not any(node in circle for circle in found):
            found.append({other for other in reach[node] if node in reach[other]})
    return found


def classes(sources: dict[str, str]) -> dict[str, list[str]]:
    """Name of a public class → the modules that define one."""
    found: dict[str, list[str]] = {}
    for path, source in sources.items():
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path)
    return found


def python_names(path: str, source: str) -> set[str]:
    """The identifiers that a module chooses, the parts of its path included; not those of other libraries that it only reads."""
    names = set(path.removesuffix(".py").split("/"))
    for node in ast.walk(parsed(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


COMMENT_OR_STRING = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)


def native_names(path: str, source: str) -> set[str]:
    """All identifiers of a C++ file outside comments and strings, and the parts of its path."""
    return set(re.findall(r"[A-Za-z_]\w*", COMMENT_OR_STRING.sub(" ", source))) | set(re.split(r"[/.]", path))


def words(names: Iterable[str]) -> set[str]:
    """Lower-case words of identifiers, those of one identifier joined by spaces: laid_out, LaidOut → 'laid out'."""
    spaced = (re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name) for name in names)
    return {" ".join(name.lower().split()) for name in spaced}
