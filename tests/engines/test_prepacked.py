"""The optimised-model cache: written once, memory-mapped afterwards, bit-identical, and never an obstacle."""

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
from aigc_edge import files
from aigc_edge.bundle import external
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.compile import compile_source
from aigc_edge.engines import prepacked
from aigc_edge.engines.cache import VARIABLE
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import is_sealed
from aigc_edge.runtime.pipeline import Verify
from aigc_edge.sources.generator import Generator

FORMATS = ("fp32", "int8", "int4", "w4a8")


class Network(nn.Module):
    """F(sample [N, 3, 8, 8], timestep [N]) of convolutions, whose weights are prepacked into blocks."""

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
        compile_source(
            source, path, formats=["fp32", "int8:psnr=10", "int4:psnr=10", "w4a8:psnr=10,block=16"], steps=3, samples=2
        )
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache that accepts small networks too."""
    monkeypatch.setattr(prepacked, "MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aigc-edge" / "prepacked"


def _sample(bundle: Path, format: str = "fp32", verify: Verify = "used", threads: int = 1) -> np.ndarray:
    with aigc_edge.open(bundle, format=format, verify=verify, threads=threads) as pipeline:
        return pipeline.sample(3, seed=5, output="float32")


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_pixels_from_the_cache(bundle: Path, cache: Path, format: str, tmp_path: Path) -> None:
    plain = _sample(bundle, format, "none")
    assert not cache.exists(), "a network whose hashes were not checked is not cached"
    first = _sample(bundle, format)
    (entry,) = cache.iterdir()
    before = (entry / prepacked.MODEL).stat().st_mtime_ns
    again, threaded = _sample(bundle, format), _sample(bundle, format, threads=2)
    assert (entry / prepacked.MODEL).stat().st_mtime_ns == before, "it is written once"
    for images in (first, again, threaded):
        np.testing.assert_array_equal(images, plain)
    packed = tmp_path / "one.aigc"
    Bundle.open(bundle, verify=True).pack(packed)
    np.testing.assert_array_equal(_sample(packed, format), plain)
    assert list(cache.iterdir()) == [entry], "a packed bundle of the same files has the same network"


def test_small_networks_are_not_cached(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "MIN_BYTES", 10**6)
    _sample(bundle)
    assert not cache.exists()


def test_each_format_has_its_own_entry(bundle: Path, cache: Path) -> None:
    for format in FORMATS:
        _sample(bundle, format)
    assert len(list(cache.iterdir())) == len(FORMATS)


DAMAGE = {
    "cut off": lambda data: data[:-7],
    "a flipped bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "a zeroed tail": lambda data: data[:-64] + bytes(64),  # what a power failure leaves
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", [prepacked.MODEL, prepacked.WEIGHTS, "files.json", "checked.json"])
def test_a_damaged_entry_is_written_again(bundle: Path, cache: Path, file: str, damage: str) -> None:
    plain = _sample(bundle)
    _sample(bundle)  # now its files are known to be whole
    (entry,) = cache.iterdir()
    (entry / file).write_bytes(DAMAGE[damage]((entry / file).read_bytes()))
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert prepacked.is_complete(entry)


def test_files_are_hashed_once_per_boot(bundle: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sample(bundle)
    (entry,) = cache.iterdir()
    hashed: list[str] = []
    whole = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda file: hashed.append(Path(file).name) or whole(file))
    assert is_sealed(entry, once=True)
    hashed.clear()
    assert is_sealed(entry, once=True)
    assert hashed == []
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(files, "BOOT", str(boot))
    assert is_sealed(entry, once=True)
    assert prepacked.WEIGHTS in hashed
    hashed.clear()
    copy = entry / "copy"
    shutil.copy2(entry / prepacked.WEIGHTS, copy)  # the same bytes and times in another inode
    copy.replace(entry / prepacked.WEIGHTS)
    assert is_sealed(entry, once=True)
    assert prepacked.WEIGHTS in hashed
    hashed.clear()
    boot.unlink()  # not Linux: every time
    assert is_sealed(entry, once=True)
    assert is_sealed(entry, once=True)
    assert hashed.count(prepacked.WEIGHTS) == 2


def test_what_is_written_back_with_the_old_time_is_noticed(bundle: Path, cache: Path) -> None:
    _sample(bundle)
    _sample(bundle)
    (entry,) = cache.iterdir()
    weights = entry / prepacked.WEIGHTS
    before = weights.stat()
    weights.write_bytes(DAMAGE["a flipped bit"](weights.read_bytes()))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not prepacked.is_complete(entry)


def test_an_entry_that_does_not_load_is_ignored_and_replaced(bundle: Path, cache: Path) -> None:
    plain = _sample(bundle)
    (entry,) = cache.iterdir()
    size = (entry / prepacked.MODEL).stat().st_size
    (entry / prepacked.MODEL).write_bytes(bytes(size))
    files.seal(entry)  # as if it had been written so
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not entry.exists()
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert prepacked.is_complete(entry)


def test_a_changed_network_is_refused_not_taken_from_the_cache(bundle: Path, cache: Path, tmp_path: Path) -> None:
    _sample(bundle)
    changed = Path(shutil.copytree(bundle, tmp_path / "changed.aigc"))
    data = max(changed.glob("denoiser.fp32.onnx*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[::-1])
    with pytest.raises(AigcEdgeError, match="does not match its hash"):
        _sample(changed)


def test_a_full_disk_or_a_disabled_cache(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _sample(bundle, verify="none")
    monkeypatch.setenv(VARIABLE, "0")
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not cache.exists()
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(shutil, "disk_usage", lambda entry: type("Usage", (), {"free": 1000})())
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not cache.exists()

    def refused(entry: Path) -> None:
        raise PermissionError(entry)

    monkeypatch.setattr(shutil, "disk_usage", refused)
    np.testing.assert_array_equal(_sample(bundle), plain)
    assert not cache.exists()
    monkeypatch.undo()
    monkeypatch.setattr(prepacked, "MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in place of the folder")
    np.testing.assert_array_equal(_sample(bundle), plain)


def test_the_least_recently_used_entry_is_evicted(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sample(bundle, "fp32")
    (old,) = cache.iterdir()
    _sample(bundle, "int8")
    (recent,) = (entry for entry in cache.iterdir() if entry != old)
    ago = time.time() - 7200
    os.utime(old, (ago, ago))
    sizes = sum(file.stat().st_size for entry in (old, recent) for file in entry.iterdir())
    monkeypatch.setenv(VARIABLE, str(1.2 * sizes / 1e9))
    monkeypatch.setattr(prepacked, "DEFAULT_GROWTH", 0.0)
    _sample(bundle, "int4")
    assert not old.exists()
    assert recent.exists(), "it was used within the hour"
    assert len(list(cache.iterdir())) == 2
