"""MkDocs hook: pages outside docs/ (README, CONTRIBUTING, …) join the site, and links to and from them are rewritten."""

from __future__ import annotations

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
    "benchmarks/results/tuned-digits.svg": "assets/tuned-digits.svg",
    ".github/assets/digits.png": "assets/digits.png",
}
WIDE = ("index.md", "benchmarks.md")  # the only page of their tab: no list of pages beside them
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

    return _LINK.sub(rewritten, markdown)
