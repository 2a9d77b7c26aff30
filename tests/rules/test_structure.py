"""Inside the package: no circles of imports, few loose modules, one meaning a class name, manifests are read in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import pytest

from tests.rules import known
from tests.rules.source import circles, classes, import_graph, parsed, python_sources

MOST_LOOSE_MODULES = 12


def unexpected_circles(found: list[set[str]], allowed: list[set[str]]) -> list[list[str]]:
    return [sorted(circle) for circle in found if not any(circle <= entry for entry in allowed)]


def stale_circles(found: list[set[str]], allowed: list[set[str]]) -> list[list[str]]:
    """Entries of `allowed` that cover no circle any more."""
    return [sorted(entry) for entry in allowed if not any(circle <= entry for circle in found)]


def test_no_module_imports_itself_through_others() -> None:
    found = circles(import_graph(python_sources()))
    assert unexpected_circles(found, known.CIRCLES) == []
    assert stale_circles(found, known.CIRCLES) == [], "these are gone: remove them from tests/rules/known.py"


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a.py": "import aigc_edge.b", "b.py": "import aigc_edge.c", "c.py": ""}, []),
        ({"a.py": "import aigc_edge.b", "b.py": "def f():\n    import aigc_edge.a"}, [{"aigc_edge.a", "aigc_edge.b"}]),
        ({"a.py": "if TYPE_CHECKING:\n    import aigc_edge.b", "b.py": "import aigc_edge.a"}, []),
        ({"a.py": "if TYPE_CHECKING:\n    pass\nelse:\n    import aigc_edge.a"}, [{"aigc_edge.a"}]),
        (
            {"p/__init__.py": "from aigc_edge.p.x import f", "p/x.py": "from aigc_edge.p import y", "p/y.py": ""},
            [],  # y is a module: not an import of p
        ),
        (
            {"p/__init__.py": "from aigc_edge.p.x import f", "p/x.py": "from aigc_edge.p import g"},
            [{"aigc_edge.p", "aigc_edge.p.x"}],
        ),
    ],
)
def test_circles_are_found(sources: dict[str, str], expected: list[set[str]]) -> None:
    assert circles(import_graph(sources)) == expected
    assert unexpected_circles(expected, expected) == stale_circles(expected, expected) == []
    assert len(unexpected_circles(expected, [])) == len(stale_circles([], expected)) == len(expected)


def loose_modules(paths: Iterable[str]) -> list[str]:
    return sorted(path for path in paths if "/" not in path and path != "__init__.py")


def test_few_modules_lie_outside_packages() -> None:
    assert 0 < len(loose_modules(python_sources())) <= MOST_LOOSE_MODULES
    assert loose_modules(["__init__.py", "b.py", "a.py", "p/c.py"]) == ["a.py", "b.py"]


def duplicates(sources: dict[str, str]) -> dict[str, list[str]]:
    """Class names that two or more modules define."""
    return {name: paths for name, paths in classes(sources).items() if len(paths) > 1}


def test_a_class_name_means_one_thing() -> None:
    found = duplicates(python_sources())
    more = [f"{name}: {', '.join(paths)}" for name, paths in found.items() if name not in known.DUPLICATE_CLASSES]
    assert not more, "\n".join(more)
    assert known.DUPLICATE_CLASSES - set(found) == set(), "these are unique now: remove them from tests/rules/known.py"


def test_duplicate_class_names_are_found() -> None:
    assert duplicates({"a.py": "class X: ...", "b.py": "def f():\n    class X: ...", "c.py": "class Y: ..."}) == {
        "X": ["a.py", "b.py"]
    }
    assert duplicates({"a.py": "class _X: ...", "b.py": "class _X: ..."}) == {}


def manifest_lookups(source: str) -> list[int]:
    """Lines that look a member up by name: manifest["…"], bundle.manifest["…"], manifest.get("…")."""
    found = []
    for node in ast.walk(parsed(source)):
        value = node.value if isinstance(node, ast.Subscript) else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            value = node.func.value
        if "manifest" in (getattr(value, "id", None), getattr(value, "attr", None)):
            assert value is not None
            found.append(value.lineno)
    return sorted(found)


def test_only_the_bundle_package_reads_manifests_by_name() -> None:
    found = {path: lines for path, source in python_sources().items() if (lines := manifest_lookups(source))}
    found = {path: lines for path, lines in found.items() if not path.startswith("bundle/")}
    more = [f"{path}: lines {lines}" for path, lines in found.items() if path not in known.MANIFEST_READERS]
    assert not more, "\n".join(more)
    assert known.MANIFEST_READERS - set(found) == set(), "these do not any more: remove them from tests/rules/known.py"


def test_lookups_are_found() -> None:
    source = (
        'a = manifest["x"]\nb = self.manifest.get("y", {})\nc = manifest.sizes\nd = manifests["z"]\ne = f().manifest["q"]["r"]\n'
    )
    assert manifest_lookups(source) == [1, 2, 5]
