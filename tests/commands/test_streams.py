"""Commands where a standard stream is closed or knows ASCII alone, and files that are pipes, sockets or devices."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc_edge import cli
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import check_regular

ROOT = Path(cli.__file__).parents[1]
BUNDLE = Path(__file__).parents[1] / "bundle" / "data" / "gan.aigc"


def run(arguments: list[str], closed: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = shlex.join([sys.executable, "-m", "aigc_edge.cli", *arguments])
    full = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, env=full, timeout=120)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_with_closed_streams(tmp_path: Path, closed: str) -> None:
    file = tmp_path / "a.npz"
    done = run(["sample", str(BUNDLE), "-n", "1", "-o", str(file), "--threads", "1"], closed)
    assert (done.returncode, done.stderr) == (0, b"")
    assert file.read_bytes()[:2] == b"PK"
    assert (done.stdout == b"") == (">&-" in closed.split())
    done = run(["inspect", str(BUNDLE)], closed)
    assert (done.returncode, done.stderr) == (0, b"")
    done = run(["inspect", str(tmp_path / "none")], closed)
    assert done.returncode == 2
    assert (done.stderr == b"") == ("2>&-" in closed.split())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:strict"])
def test_a_stream_takes_every_character(encoding: str) -> None:
    done = run(["inspect", str(BUNDLE)], PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding.partition(":")[0])
    assert ("×" in shown) == (encoding != "ascii" and encoding != "ascii:strict")
    if "×" not in shown:
        assert "images 1x" in shown or "images 3x" in shown
    done = run(["inspect", str(BUNDLE), "--json"], PYTHONIOENCODING=encoding)
    stored = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    shown_json = json.loads(done.stdout.decode(encoding.partition(":")[0]))
    assert {name: shown_json[name] for name in stored} == stored


def _late(*_: object) -> None:
    raise AssertionError("reading it does not end")


@pytest.fixture(params=["pipe", "socket", "device"])
def strange(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path, server = tmp_path / "x", socket.socket(socket.AF_UNIX)
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    before = signal.signal(signal.SIGALRM, _late)
    signal.alarm(60)
    yield path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    server.close()


COMMANDS = [
    "inspect X", "sample X", "compile X --role decoder", "plan X", "tune X", "quantise X", "build X", "bench X", "verify X",
    "why X", "compile net.onnx --prompts X", "verify BUNDLE --scheduler X",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_is_refused(strange: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [{"X": str(strange), "BUNDLE": str(BUNDLE)}.get(word, word) for word in command.split()]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert f"{strange} is a pipe, a socket or a device" in said
    assert said.count("\n") == 1


def test_what_is_no_file_inside_a_bundle_is_refused(strange: Path) -> None:
    bundle = Bundle.open(BUNDLE)
    with pytest.raises(AigcEdgeError, match="is not a file"):
        Bundle(strange.parent, bundle.manifest._replace(files={"x": next(iter(bundle.manifest.files.values()))})).read("x")


def test_files_folders_and_nothing_are_not_judged(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none"):
        check_regular(path)
