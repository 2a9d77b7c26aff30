"""Files and folders that are replaced: whole, on the disk, and not on a mount point."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aigc_edge import files
from aigc_edge.bundle.bundle import existing
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.files import atomic_dir, atomic_file, check_output, recover


def write(path: Path, text: str) -> None:
    with atomic_dir(path, overwrite=True) as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text(text)


@pytest.fixture(params=["exchange", "two renames"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two renames":  # a file system or a C library without renameat2
        monkeypatch.setattr(ctypes, "CDLL", lambda name: object())


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("before", ["folder", "file", "link", "dangling link"])
def test_a_folder_replaces_what_was_there(tmp_path: Path, before: str) -> None:
    path, elsewhere = tmp_path / "a", tmp_path / "elsewhere"
    if before == "folder":
        write(path, "old")
    elif before == "file":
        path.write_text("old")
    else:
        elsewhere.mkdir()
        path.symlink_to(elsewhere if before == "link" else tmp_path / "nowhere")
    write(path, "new")
    assert (path / "inner" / "file").read_text() == "new"
    assert not path.is_symlink()
    assert {p.name for p in tmp_path.iterdir()} == {"a"} | ({"elsewhere"} if elsewhere.exists() else set())


CHILD = """
import ctypes, os, sys
from pathlib import Path
from aigc_edge.files import atomic_dir
if sys.argv[2] == "two renames":
    ctypes.CDLL = lambda name: object()
calls, replace = [], os.replace
def stopping(*names):
    replace(*names)
    calls.append(names)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
os.replace = stopping
with atomic_dir(sys.argv[1], overwrite=True) as part:
    (part / "manifest.json").write_text("new")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("way", "stop", "left"), [("exchange", 1, "new"), ("two renames", 1, "old"), ("two renames", 2, "new")])
def test_a_killed_replacement_leaves_the_old_or_the_new(tmp_path: Path, way: str, stop: int, left: str) -> None:
    path = tmp_path / "a.aigc[1]"
    with atomic_dir(path) as part:
        (part / "manifest.json").write_text("old")
    code = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), way, str(stop)]
    root = str(Path(files.__file__).parents[1])
    assert subprocess.run(code, env=os.environ | {"PYTHONPATH": root}).returncode == -signal.SIGKILL
    assert existing(path) == path
    assert (path / "manifest.json").read_text() == left


def test_nothing_is_put_back_where_something_is(tmp_path: Path) -> None:
    (tmp_path / ".a.0123.old").mkdir()
    (tmp_path / "a").write_text("there")
    recover(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "there"
    with pytest.raises(BundleError, match="no bundle at"):
        existing(tmp_path / "b")
    with pytest.raises(BundleError, match="no bundle at"):
        existing(tmp_path / "gone" / "b")


@pytest.mark.parametrize("folder", [False, True])
def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool) -> None:
    path, aside = tmp_path / "a", tmp_path / ".a.0123.old"
    aside.mkdir() if folder else aside.write_text("old")
    look = os.path.getmtime

    def written_meanwhile(file: str) -> float:
        path.write_text("new")
        return look(file)

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "getmtime", written_meanwhile)
        recover(path)
    assert path.read_text() == "new"
    assert aside.exists()
    path.unlink()
    recover(path)
    assert path.is_dir() == folder
    assert not aside.exists()


@pytest.mark.parametrize("name", ["a", "with space", "größe"])
def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    place = os.fsencode(os.path.realpath(path)).replace(b" ", rb"\040")
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 35 98:0 /x " + place + b" rw,noatime - ext3 /dev/root rw\n")
    monkeypatch.setattr(files, "MOUNTS", str(mounts))
    with pytest.raises(AigcEdgeError, match="is a mount point"):
        check_output(path, overwrite=True)
    with pytest.raises(AigcEdgeError, match="is a mount point"), atomic_dir(path, overwrite=True):
        raise AssertionError("the work began")
    check_output(path / "inside", overwrite=False)
    mounts.unlink()  # not Linux
    check_output(path, overwrite=True)


def test_a_real_mount_point_is_refused() -> None:
    with pytest.raises(AigcEdgeError, match="is a mount point"):
        check_output(Path("/proc"), overwrite=True)


def test_what_is_durable_is_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "_sync", lambda path: synced.append(path.name))
    with atomic_file(tmp_path / "a", durable=True) as part:
        part.write_text("x")
    assert len(synced) == 2
    assert synced[1] == tmp_path.name
    synced.clear()
    with atomic_dir(tmp_path / "b", durable=True) as part:
        (part / "one").write_text("x")
    assert "one" in synced
    assert synced[-1] == tmp_path.name
    synced.clear()
    write(tmp_path / "c", "fresh")
    assert synced == []
    write(tmp_path / "c", "again")
    assert {"inner", "file"} <= set(synced)
