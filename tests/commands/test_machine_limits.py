"""A full disk, a place that cannot be written, an interrupt, a closed pipe."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 KB; only root can make one."""
    place = tmp_path / "full"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or not mount:
        pytest.skip("only root can mount a small file system")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(cli: Any, own_bundle: Path, full_disk: Path) -> None:
    (full_disk / "filler").write_bytes(b"x" * 40_000)
    for name in ("x.npz", "x.png"):
        command = ("sample", own_bundle, "-n", "400", "--steps", "1", "-o", name)
        cli.refuse(*command, says=("no space left", name), folder=full_disk)
    done = cli.run("train", "diffusion", "--data", "digits", "--out", "run", "--steps", "1", folder=full_disk)
    assert done.returncode == 2
    assert done.stderr.startswith("aigc-edge: no space left to write run/checkpoint")
    assert len(done.stderr.splitlines()) == 1
    kept = {path.name.partition(".")[0] for path in (full_disk / "run").iterdir()}
    assert kept <= {"config", "events"}  # both whole: the same command goes on from there when there is space again
    json.loads((full_disk / "run" / "config.json").read_text(encoding="utf-8"))


def test_full_disk_without_root(cli: Any, own_bundle: Path) -> None:
    before = """
import errno, numpy
def full(file, **arrays):
    raise OSError(errno.ENOSPC, "No space left on device")
numpy.savez_compressed = full
"""
    cli.refuse("sample", own_bundle.name, "--steps", "1", "-o", "x.npz", before=before, says=("no space left", "x.npz"))


def test_place_that_cannot_be_written(cli: Any, own_bundle: Path) -> None:
    (own_bundle.parent / "file").write_text("")
    cli.refuse("sample", own_bundle.name, "--steps", "1", "-o", "file/x.png", says=("file/x.png",))


@pytest.mark.parametrize("ignored", [False, True], ids=["foreground", "background"])
def test_interrupt_leaves_nothing_behind(cli: Any, own_bundle: Path, ignored: bool) -> None:
    there = cli.left()
    on_terminal = "import sys; sys.stderr.isatty = lambda: True"  # so that it reports its progress
    command = cli.command("sample", own_bundle.name, "-n", "1000000", "--steps", "4", "-o", "x.png", before=on_terminal)
    # Started as a script starts a command in the background: with the signal ignored.
    background = ["bash", "-c", 'trap "" INT; exec "$@"', "bash"]
    process = subprocess.Popen([*background * ignored, *command], cwd=cli.folder, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert b"/1000000 images" in process.stderr.read(24)  # sampling has begun
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=120)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert cli.left() == there


def test_closed_pipe_is_quiet(cli: Any, own_bundle: Path) -> None:
    command = shlex.join(cli.command("inspect", own_bundle, "--json"))
    done = subprocess.run(["bash", "-c", f"{command} | head -c 1"], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_debug_shows_the_stack_trace(cli: Any) -> None:
    done = cli.run("inspect", "no-such.aigc", before="import os; os.environ['AIGC_EDGE_DEBUG'] = '1'")
    assert "Traceback" in done.stderr
    assert "BundleError" in done.stderr
