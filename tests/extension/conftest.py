"""Other distributions, built and installed into folders of their own, and the command line with them on its path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

START = "import sys; sys.path[:] = [p for p in sys.path if p]; from aigc_edge.cli import main; sys.exit(main())"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tests/extension/distribution is installed in, built as a wheel by pip, without a network."""
    pytest.importorskip("pip")
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("toy")
    source = shutil.copytree(Path(__file__).with_name("distribution"), folder / "source")
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(site, *arguments) is `aigc-edge` in `tmp_path`, with the distributions installed in the folder `site`."""

    def call(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        environment.pop("AIGC_EDGE_DEBUG", None)
        command = [sys.executable, "-c", START, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)

    return call
