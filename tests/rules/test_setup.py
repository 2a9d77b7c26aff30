"""tools/setup.py: what it would install, in which order, and when it does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.rules.source import ROOT
from tests.scripts import load_script


@pytest.fixture
def setup() -> ModuleType:
    return load_script("setup")


def wanted(attempts: Any) -> list[str]:
    """The last argument of each way's last command: what it installs."""
    return [commands[-1][-1] for commands, _ in attempts]


def test_without_a_gpu_the_cpu_build_comes_first_and_the_plain_one_last(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    ways = setup.torch_attempts("python", False, "file:///some/index")
    plain = f"torch=={setup.TORCH}"
    assert wanted(ways) == [f"{plain}+cpu", plain, plain, plain]
    assert "--index-url" in ways[1][0][-1]
    assert "--torch-backend=cpu" in ways[2][0][-1]
    assert [bool(warning) for _, warning in ways] == [False, False, False, True]
    assert "gigabytes" in ways[-1][1]
    assert len(setup.torch_attempts("python", False, "")) == 3


def test_with_a_gpu_the_plain_build_is_taken(setup: ModuleType) -> None:
    assert wanted(setup.torch_attempts("python", True, "")) == [f"torch=={setup.TORCH}"]


@pytest.mark.parametrize("works", [0, 1, 2, 3])
def test_the_first_way_that_works_is_the_last_that_is_tried(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, works: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    ways = setup.torch_attempts("python", False, "file:///some/index")
    good = {tuple(command) for command in ways[works][0]} | {("python", *setup.INSTALL, "uv")}

    def run(command: Any, *, quiet: bool = False) -> bool:
        ran.append(" ".join(command))
        return tuple(command) in good

    monkeypatch.setattr(setup, "run", run)
    monkeypatch.setattr(setup, "has_nvidia_gpu", lambda: False)
    monkeypatch.setenv("TORCH_INDEX", "file:///some/index")
    setup.install_torch("python")
    assert ran[-1] == " ".join(ways[works][0][-1])
    assert ("gigabytes" in capsys.readouterr().err) == (works == 3)


def test_when_no_way_works_it_says_so(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "run", lambda command, quiet=False: False)
    with pytest.raises(setup.SetupError, match="torch"):
        setup.install_torch("python")


@pytest.mark.parametrize("works", [True, False])
def test_what_tests_compare_with_comes_alone_and_is_not_needed(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, works: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(setup, "run", lambda command, quiet=False: ran.append(command) or works)
    setup.install_bare("python")
    assert [command[-2:] for command in ran] == [["--no-deps", package] for package in setup.BARE]
    assert any(package.startswith("k-diffusion>=") and ",<" in package for package in setup.BARE)
    assert ("skipped" in capsys.readouterr().err) is not works


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ("venv", "apt-get install python3.99-venv"),
        ("header", "apt-get install python3.99-dev"),
        ("compiler", "apt-get install g++"),
    ],
)
def test_what_the_machine_lacks_is_named_with_its_package(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str, says: str
) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(
        setup.sysconfig, "get_paths", lambda: {"include": str(tmp_path / "none" if lacks == "header" else tmp_path)}
    )
    monkeypatch.setattr(
        setup.importlib.util, "find_spec", lambda name: None if (lacks, name) == ("venv", "ensurepip") else object()
    )
    monkeypatch.setattr(setup.shutil, "which", lambda name: None if lacks == "compiler" else name)
    found = setup.missing("3.99")
    assert len(found) == 1
    assert says in found[0]


def test_digest_changes_with_every_byte_and_name(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    first = setup.digest([folder])
    assert setup.digest([folder]) == first
    assert setup.digest([folder], "other") != first
    (folder / "a").write_bytes(b"2")
    second = setup.digest([folder])
    (folder / "a").rename(folder / "b")
    assert len({first, second, setup.digest([folder])}) == 3


def test_an_unknown_environment_is_a_sentence() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "setup.py"), "moon"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "setup: unknown environment 'moon': choose of dev, test, runtime\n"
