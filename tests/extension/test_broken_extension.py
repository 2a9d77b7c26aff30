"""A distribution that is broken costs what it adds, and one sentence: aigc-edge itself works on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GROUPS = ["solvers", "engines", "formats", "pipelines", "targets", "families", "data", "sources", "peers", "runners", "commands"]
Run = Callable[..., Any]


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """broken(code, object) is a folder with an installed distribution that adds `object` of a module as each kind."""

    def install(code: str, attribute: str = "thing", name: str = "broken") -> Path:
        site = tmp_path / "site"
        info = site / "broken_toy-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "broken_toy.py").write_text(code)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-toy\nVersion: 1.0\n")
        groups = [f"[aigc_edge.{group}]\n{name} = broken_toy:{attribute}\n" for group in GROUPS]
        (info / "entry_points.txt").write_text("\n".join(groups))
        return site

    return install


def warnings_of(done: Any) -> list[str]:
    return [line for line in done.stderr.splitlines() if "broken-toy" in line]


@pytest.mark.parametrize("code", ["raise RuntimeError('of its own')", "import sys; sys.exit(3)", "thing = ("])
def test_a_distribution_that_cannot_be_imported_is_one_warning(broken: Any, run: Run, code: str) -> None:
    site = broken(code)
    done = run(site, "targets", "--json")
    assert done.returncode == 0, done.stderr
    assert {"x86-cpu", "rtx-40"} <= {entry["name"] for entry in json.loads(done.stdout)}
    said = warnings_of(done)
    assert len(said) == len(set(said)) == len(done.stderr.strip().splitlines())
    assert all(line.startswith("aigc-edge: warning: 'broken' (aigc_edge.") for line in said)
    assert all("of the distribution broken-toy cannot be loaded (" in line for line in said)


def test_what_is_built_in_does_not_look_at_other_distributions(broken: Any, run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    site = broken("raise RuntimeError('of its own')")
    shutil.copytree(tiny_bundle, tmp_path / "digits.aigc")
    done = run(site, "sample", "digits.aigc", "--solver", "euler", "--steps", "2", "-n", "1", "-o", "one.png")
    assert (done.returncode, done.stderr) == (0, "")
    done = run(site, "sample", "digits.aigc", "--engine", "auto", "--steps", "2", "-n", "1", "-o", "two.png")
    assert done.returncode == 0
    assert len(warnings_of(done)) == len(done.stderr.splitlines()) == 1


def test_an_unknown_name_is_still_explained(broken: Any, run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "digits.aigc")
    done = run(broken("raise RuntimeError('of its own')"), "sample", "digits.aigc", "--solver", "broken")
    assert done.returncode == 2
    assert len(warnings_of(done)) == 1
    assert "unknown solver 'broken': choose one of" in done.stderr.splitlines()[-1]


def test_what_is_of_another_kind_is_left_out(broken: Any, run: Run, tiny_bundle: Path) -> None:
    site = broken("thing = 3")
    done = run(site, "targets", "--json")
    assert done.returncode == 0, done.stderr
    said = " ".join(warnings_of(done))
    assert "is not a subclass of Format" in said
    assert "(aigc_edge.targets) of the distribution broken-toy is not a target" in said
    done = run(site, "sample", str(tiny_bundle), "--engine", "auto", "--steps", "1", "-n", "1", "-o", "one.png")
    assert done.returncode == 0, done.stderr
    assert "is not a subclass of Engine" in done.stderr


def test_a_built_in_name_is_not_replaced(broken: Any, run: Run, tiny_bundle: Path) -> None:
    code = "from aigc_edge.engines.base import Engine\nclass thing(Engine):\n    name = 'torch'\n    auto = True\n"
    site = broken(code, name="torch")
    done = run(site, "sample", str(tiny_bundle), "--engine", "auto", "--steps", "1", "-n", "1", "-o", "one.png")
    assert done.returncode == 0, done.stderr
    assert "'torch' (aigc_edge.engines) of the distribution broken-toy has the name of another engine" in done.stderr


def test_a_broken_command_leaves_the_others(broken: Any, run: Run) -> None:
    done = run(broken("thing = 3"), "--help")
    assert done.returncode == 0
    assert "quantise" in done.stdout
    assert "of the distribution broken-toy is not a command: it has no ORDER, HELP, DESCRIPTION, configure, run" in done.stderr


def test_a_malformed_target_names_its_distribution(broken: Any, run: Run) -> None:
    done = run(broken("thing = {'name': 'x', 'title': 'X', 'kind': 'cpu'}"), "targets", "--json")
    assert done.returncode == 0
    assert "broken-toy is not a target (target 'x' is malformed: a device names its engine" in done.stderr
