"""Packages of the zoo: pinned, kept, and one sentence where they cannot be had."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.conftest import ZOO

NAMES = ("esrgan", "faces", "terrain", "ecg")


def archive(kind: str) -> bytes:
    """A wheel or a tarball with the file package/a.txt."""
    buffer = io.BytesIO()
    if kind == "whl":
        with zipfile.ZipFile(buffer, "w") as wheel:
            wheel.writestr("package/a.txt", "hello")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tarball:
            entry = tarfile.TarInfo("package/a.txt")
            entry.size = 5
            tarball.addfile(entry, io.BytesIO(b"hello"))
    return buffer.getvalue()


@pytest.fixture(params=["whl", "tgz"])
def package(request: pytest.FixtureRequest, zoo: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package whose download is replaced: `package.calls` counts, `package.data` is what arrives (None: nothing)."""
    data = archive(request.param)
    file = f"thing-1.0.{request.param}"
    made = zoo.packages.Package("thing", "1.0", file, hashlib.sha256(data).hexdigest(), "MIT")
    monkeypatch.setattr(zoo.packages.shutil, "which", lambda name: name)

    class Download:
        calls, arrives, package, stderr = 0, data, made, "error: the host does not answer"

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        Download.calls += 1
        assert any(part in ("thing==1.0", "thing@1.0") for part in command)
        folder = Path(command[command.index("--dest" if "--dest" in command else "--pack-destination") + 1])
        if Download.arrives is None:
            return subprocess.CompletedProcess(command, 1, "", Download.stderr)
        (folder / file).write_bytes(Download.arrives)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(zoo.packages.subprocess, "run", run)
    return Download


def test_a_package_is_downloaded_once(package: Any, tmp_path: Path) -> None:
    for _ in range(2):
        folder = package.package.fetch(tmp_path / "cache")
        assert (folder / "package" / "a.txt").read_text() == "hello"
    assert package.calls == 1


def test_another_hash_is_refused_and_nothing_stays(package: Any, zoo: Any, tmp_path: Path) -> None:
    package.arrives = package.arrives + b"x"
    with pytest.raises(zoo.packages.PackageError, match="was pinned"):
        package.package.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_sentence(package: Any, zoo: Any, tmp_path: Path) -> None:
    package.arrives = None
    with pytest.raises(zoo.packages.Unavailable, match=r"thing 1.0 cannot be downloaded \(.*does not answer\)"):
        package.package.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_npm_may_be_missing(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.packages.shutil, "which", lambda name: None)
    with pytest.raises(zoo.packages.Unavailable, match=r"install Node\.js"):
        zoo.esrgan.PACKAGE.fetch(tmp_path)


def test_everything_is_pinned(zoo: Any) -> None:
    for name in NAMES:
        package = getattr(zoo, name).PACKAGE
        assert len(package.sha256) == 64
        assert package.licence == "MIT"
        assert package.version in package.file


def test_the_command_goes_on_after_a_failure(tmp_path: Path) -> None:
    """Without a network every network is reported in one line, and the exit code is 2."""
    blocked = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PATH": str(tmp_path), "HOME": str(tmp_path)}
    root = ZOO.parents[1]
    script = f"import sys; sys.path.insert(0, {str(ZOO)!r}); sys.path.append({str(root)!r})"  # after what is installed
    script += f"; sys.argv = ['zoo', '--out', {str(tmp_path / 'out')!r}]"
    script += f"; import runpy; runpy.run_path({str(ZOO / '__main__.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=blocked)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    reported = [line for line in done.stderr.splitlines() if not line.endswith("…")]
    assert [line.partition(":")[0] for line in reported] == ["faces", "esrgan", "terrain", "ecg"]
