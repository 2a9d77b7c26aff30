"""The documentation holds together: the site builds without a warning, relative links lead somewhere, tables are current."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "tests/data/README.md"))
]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def dead_links(page: Path, texts: Mapping[Path, str]) -> list[str]:
    """Relative links of a page whose file or anchor does not exist; `texts` are the pages that may be linked with anchors."""
    dead = []
    for target in LINK.findall(CODE.sub("", texts[page])):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            dead.append(f"{target}: there is no such file")
        elif anchor.startswith("aigc_edge."):
            continue  # of the API reference, which the build of the site checks
        elif anchor and anchor not in anchors(texts.get(file, "")):
            dead.append(f"{target}: there is no such heading")
    return dead


@functools.cache
def texts() -> dict[Path, str]:
    return {page: page.read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, texts()) == []


def test_dead_links_are_seen(tmp_path: Path) -> None:
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text("# One `two`\n[a](second.md) [b](second.md#a-title-here) [c](#one-two) [d](https://x.org)\n`[e](code.md)`\n")
    second.write_text("# A title, here\n[a](third.md) [b](first.md#two)\n```\n[c](in/code.md)\n```\n")
    pages = {page: page.read_text() for page in (first, second)}
    assert dead_links(first, pages) == []
    assert dead_links(second, pages) == ["third.md: there is no such file", "first.md#two: there is no such heading"]


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site that mkdocs.yml in a folder describes; warnings are errors."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("building the site needs MkDocs: pip install 'aigc-edge[docs]'")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(site),
    ]  # --quiet hides warnings from --strict
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert 'id="aigc_edge.runtime.pipeline.Pipeline.sample"' in (tmp_path / "site" / "api" / "runtime.html").read_text()
    assert (tmp_path / "site" / "assets" / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_a_dead_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [index.md]\nplugins: []\nhooks: []\nextra_css: []\n"
    )
    page = tmp_path / "docs" / "index.md"
    page.write_text("# One\n\n[here](#one)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    for link in ("#two", "two.md"):
        page.write_text(f"# One\n\n[nowhere]({link})\n")
        done = build(tmp_path, tmp_path / "site")
        assert done.returncode != 0
        assert link in done.stderr


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "tools" / "readme_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_current(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = tables()
    assert module.main(["--check"]) == 0, "run python tools/readme_tables.py"
    monkeypatch.setitem(module.TABLES["docs/formats.md"], "formats", lambda: "another table")
    assert module.main(["--check"]) == 1
    assert "docs/formats.md" in capsys.readouterr().out
