"""What every test may use: fresh random numbers that can be repeated, and the small trained bundle of the repository."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = Path(os.environ.get("AIGC_EDGE_TEST_BUNDLE", ROOT / "tests" / "data" / "digits-tiny.aigc"))


with contextlib.suppress(ModuleNotFoundError):  # few folders of tests need it
    import hypothesis

    # A busy machine is no failure.
    hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("busy")


def pytest_configure() -> None:
    """Undo what a shell without job control does to `make test &`: SIGINT is ignored there, by what tests start too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    where = __import__("aigc_edge").__file__
    return f"aigc_edge: {where}; repeat random inputs with AIGC_EDGE_TEST_SEED={_seed()}"


def _seed() -> int:
    if "AIGC_EDGE_TEST_SEED" not in os.environ:
        os.environ["AIGC_EDGE_TEST_SEED"] = str(int.from_bytes(os.urandom(4), "little"))
    return int(os.environ["AIGC_EDGE_TEST_SEED"])


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Fresh random numbers: another seed each run, the same for the same test under the seed that the header of the run names."""
    return np.random.default_rng([_seed(), *request.node.nodeid.encode()])


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """The small trained bundle of the repository, or the one that AIGC_EDGE_TEST_BUNDLE names (never written to)."""
    if not TINY.exists():
        pytest.skip(f"{TINY} is not there")
    return TINY


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "digits.aigc"))


@pytest.fixture
def text_to_image(rng: np.random.Generator) -> Any:
    """text_to_image(guidance=…, encoders=…) makes the networks of a tiny text-to-image bundle, see tests/text_bundle.py."""
    for needed in ("onnx", "tokenizers"):
        pytest.importorskip(needed)
    from tests.text_bundle import TextToImage

    return lambda **options: TextToImage(rng, **options)


@pytest.fixture
def fake_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """fake_tensorrt(module, version, lines) puts a recorded version of TensorRT in the place of a module."""
    from tests import fake_tensorrt as code

    def install(module: str, version: str, lines: Any = ()) -> Path:
        install.folder = code.install(tmp_path / f"fake-{version}", monkeypatch, module, version, lines)  # type: ignore[attr-defined]
        return install.folder  # type: ignore[attr-defined, no-any-return]

    install.line = code.convolution_line  # type: ignore[attr-defined]
    yield install
    for name in ("tensorrt", "tensorrt_rtx"):
        if "fake-" in str(getattr(sys.modules.get(name), "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pipelines with `torch_device="cpu"` have the emulated GPU (tests/emulated_core.py) for theirs."""
    from aigc_edge.runtime import pipeline
    from tests import emulated_core

    core = emulated_core.load()
    monkeypatch.setattr(pipeline, "_core", core.module)
    return core
