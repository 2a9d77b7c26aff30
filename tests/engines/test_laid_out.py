"""Networks as onnxruntime lays them out: written once, mapped after, the same to the last bit, and never in the way."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import aigc_edge
from aigc_edge.bundle import external
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.compile import compile_source
from aigc_edge.engines import laid_out
from aigc_edge.engines.cache import VARIABLE
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.pipeline import Verify
from aigc_edge.sources.generator import Generator

FORMATS = ("fp32", "int8", "int4")


class Network(nn.Module):
    """F(sample [N, 3, 8, 8], timestep [N]) of convolutions, which are laid out in blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time = nn.Linear(1, 32)
        self.first, self.middle, self.last = (nn.Conv2d(*size, 3, padding=1) for size in ((3, 32), (32, 32), (32, 3)))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.first(sample) + self.time(timestep[:, None] / 1000)[:, :, None, None])
        return self.last(nn.functional.silu(self.middle(x)))


@pytest.fixture(scope="module", params=["inside", "apart"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose network has its weights in its file, or apart."""
    path = tmp_path_factory.mktemp("bundle") / "net.aigc"
    schedule = {"prediction": "epsilon", "betas": "linear"}
    source = Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=Network(), schedule=schedule, name="net")
    with pytest.MonkeyPatch.context() as change:
        if request.param == "apart":
            change.setattr(external, "ABOVE", 0)
        compile_source(source, path, formats=["fp32", "int8:psnr=10", "int4:psnr=10"], steps=3, samples=2)
    return path


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that is empty, and takes small networks too."""
    monkeypatch.setattr(laid_out, "LEAST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aigc-edge" / "laid-out"


def _sample(bundle: Path, format: str = "fp32", verify: Verify = "used", threads: int = 1) -> np.ndarray:
    with aigc_edge.open(bundle, format=format, verify=verify, threads=threads) as pipeline:
        return pipeline.sample(3, seed=5, output="float32")


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_pixels_from_what_is_kept(bundle: Path, kept: Path, format: str, tmp_path: Path) -> None:
    plain = _sample(bundle, format, "none")
    assert not kept.exists(), "a network whose hashes were not checked leaves nothing behind"
    first = _sample(bundle, format)
    (place,) = kept.iterdir()
    before = (place / laid_out.MODEL).stat().st_mtime_ns
    again, threaded = _sample(bundle, format), _sample(bundle, format, threads=2)
    assert (place / laid_out.MODEL).stat().st_mtime_ns == before, "it is made once"
    for found in (first, again, threaded):
        np.testing.assert_array_equal(found, plain)
    one = tmp_path / "one.aigc"
    Bundle.open(bundle, verify=True).pack(one)
    np.testing.assert_array_equal(_sample(one, format), plain)
    assert list(kept.iterdir()) == [place], "a packed bundle of the same files has the same network"


def test_small_networks_are_not_kept(bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laid_out, "LEAST", 10**6)
    _sample(bundle)
    assert not kept.exists()


def test_each_format_has_its_own(bundle: Path, kept: Path) -> None:
    for format in FORMATS:
        _sample(bundle, format)
    assert len(list(kept.iterdir())) == len(FORMATS)


@pytest.mark.parametrize("file", [laid_out.MODEL, laid_out.WEIGHTS, "files.json"])
def test_what_is_damaged_is_made_again(bundle: Path, kept: Path, file: str) -> None:
    plain = _sample(bundle)
    (place,) = kept.iterdir()
    (place / file).write_bytes((place / file).read_bytes()[:-7])
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert laid_out.is_whole(place)


def test_a_model_that_does_not_load_is_no_hindrance(bundle: Path, kept: Path) -> None:
    plain = _sample(bundle)
    (place,) = kept.iterdir()
    size = (place / laid_out.MODEL).stat().st_size
    (place / laid_out.MODEL).write_bytes(bytes(size))
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not place.exists()
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert laid_out.is_whole(place)


def test_a_changed_network_is_refused_not_taken_from_the_cache(bundle: Path, kept: Path, tmp_path: Path) -> None:
    _sample(bundle)
    changed = Path(shutil.copytree(bundle, tmp_path / "changed.aigc"))
    data = max(changed.glob("denoiser.fp32.onnx*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[::-1])
    with pytest.raises(AigcEdgeError, match="does not match its hash"):
        _sample(changed)


def test_a_disk_that_is_full_or_not_to_be_used(bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _sample(bundle, verify="none")
    monkeypatch.setenv(VARIABLE, "0")
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not kept.exists()
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not kept.exists()

    def refused(place: Path) -> None:
        raise PermissionError(place)

    monkeypatch.setattr(shutil, "disk_usage", refused)
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not kept.exists()
    monkeypatch.undo()
    monkeypatch.setattr(laid_out, "LEAST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept.parent.parent))
    kept.parent.mkdir(parents=True)
    kept.write_text("a file where a folder is wanted")
    np.testing.assert_array_equal(_sample(bundle), plain)


def test_what_was_not_used_for_longest_goes(bundle: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sample(bundle, "fp32")
    (old,) = kept.iterdir()
    _sample(bundle, "int8")
    (recent,) = (place for place in kept.iterdir() if place != old)
    ago = time.time() - 7200
    os.utime(old, (ago, ago))
    sizes = sum(file.stat().st_size for place in (old, recent) for file in place.iterdir())
    monkeypatch.setenv(VARIABLE, str(1.2 * sizes / 1e9))
    monkeypatch.setattr(laid_out, "FLOATS", 0.0)
    _sample(bundle, "int4")
    assert not old.exists()
    assert recent.exists(), "it was used within the hour"
    assert len(list(kept.iterdir())) == 2
