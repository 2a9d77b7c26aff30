"""MkDocs hook: pages outside docs/ join the site, links follow them, and packages become lists of modules in the API reference.

In a page, `::: package.*` stands for every public module of a package, `::: package.__all__` for those that it re-exports from.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# Path in the repository → path in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/zoo/README.md": "zoo.md",
    "benchmarks/results/tuned-digits.svg": "assets/tuned-digits.svg",
    "benchmarks/results/tiles.png": "assets/tiles.png",
    ".github/assets/digits.png": "assets/digits.png",
}
WIDE = ("index.md", "benchmarks.md", "zoo.md")  # the only page of their tab: no list of pages beside them
_PACKAGE = re.compile(r"^::: ([\w.]+)\.(\*|__all__)$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[#)])")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures of `OUTSIDE`."""
    for source, site in OUTSIDE.items():
        if site.endswith(".md"):
            head = "---\nhide:\n  - navigation\n---\n" if site in WIDE else ""
            files.append(File.generated(config, site, content=head + (ROOT / source).read_text(encoding="utf-8")))
        else:
            files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn relative links between files of the repository into links between pages of the site."""
    site = page.file.src_uri
    here = next((source for source, name in OUTSIDE.items() if name == site), f"docs/{site}")

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        inside = OUTSIDE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        return match[1] if inside is None else posixpath.relpath(inside, posixpath.dirname(site) or ".")

    return _LINK.sub(rewritten, _PACKAGE.sub(lambda match: modules(match[1], match[2] == "__all__"), markdown))


def modules(package: str, exported: bool) -> str:
    """The directives of mkdocstrings for the modules of a package."""
    folder = ROOT / package.replace(".", "/")
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if exported:
        tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        origins = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = [name for name in names if f"{package}.{name}" in origins]
    if not names:
        raise ValueError(f"{package} has no module to document")
    return "\n\n".join(f"::: {package}.{name}" for name in names)
