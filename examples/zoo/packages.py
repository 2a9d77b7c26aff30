"""Published packages, downloaded by pinned version and hash with the registries' own clients and unpacked into a cache folder."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


class PackageError(Exception):
    """A package that is not what was pinned; the message is one sentence."""


class Unavailable(PackageError):
    """A package that cannot be downloaded here: no network, or no npm."""


@dataclass(frozen=True)
class Package:
    """A version of a package of PyPI (a wheel) or npm (a tarball), with the SHA-256 of its `file`."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str

    def fetch(self, cache: Path) -> Path:
        """The folder of the unpacked package below `cache`; a package that is there already is not downloaded again.

        Raises Unavailable where it cannot be downloaded, PackageError for another hash.
        """
        folder = cache / self.file.removesuffix(".whl").removesuffix(".tgz")
        if folder.exists():
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as part:
            file = Path(part) / self.file
            self._download(file)
            found = hashlib.sha256(file.read_bytes()).hexdigest()
            if found != self.sha256:
                raise PackageError(f"{self.file} has the SHA-256 {found}, {self.sha256} was pinned: it was not unpacked")
            unpacked = Path(part) / "unpacked"
            if file.suffix == ".whl":
                with zipfile.ZipFile(file) as wheel:
                    wheel.extractall(unpacked)
            else:
                with tarfile.open(file) as archive:
                    archive.extractall(unpacked, filter="data")
            unpacked.rename(folder)
        return folder

    def _download(self, file: Path) -> None:
        if file.suffix == ".whl":
            options = (
                "-m pip download -q --no-deps --only-binary :all: --ignore-requires-python --disable-pip-version-check --dest"
            )
            command = [sys.executable, *options.split(), str(file.parent), f"{self.name}=={self.version}"]
        else:
            npm = shutil.which("npm")
            if npm is None:
                raise Unavailable(f"{self.name} is a package of npm, which is not installed: install Node.js")
            command = [npm, "pack", "--silent", "--pack-destination", str(file.parent), f"{self.name}@{self.version}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{self.name} {self.version} was not downloaded within ten minutes: check the network") from None
        if done.returncode or not file.exists():
            reason = (done.stderr.strip().splitlines() or ["no such file"])[-1]
            raise Unavailable(f"{self.name} {self.version} cannot be downloaded ({reason:.150}): check the network")


def load_module(file: Path) -> ModuleType:
    """The Python module in `file` alone, without the package around it and what that needs."""
    spec = importlib.util.spec_from_file_location(f"zoo_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
