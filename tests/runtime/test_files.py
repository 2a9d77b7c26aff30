"""The native reader and the files under it: shortened, changed or replaced while a bundle is open, no files at all, too large."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aigc_edge import _core
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.write import write_members
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime import pipeline

NETWORK = bytes(range(256)) * 64  # several pages
MAX_BYTES = 64 << 20  # of a JSON text
VERIFY_ALL = 1


@pytest.fixture(params=["folder", "packed"])
def bundle(request, engine, toy, tmp_path):
    """A bundle of a network of some length, as a folder or packed."""
    write_members(tmp_path / "toy.aigc", toy.manifest(), {"net.onnx": NETWORK})
    if request.param == "folder":
        return tmp_path / "toy.aigc"
    Bundle.open(tmp_path / "toy.aigc", verify=True).pack(tmp_path / "packed.aigc")
    return tmp_path / "packed.aigc"


def network_file(bundle: Path) -> Path:
    return bundle / "net.onnx" if bundle.is_dir() else bundle


class Native:
    """The C API itself, which the Python module exports too."""

    def __init__(self, bundle: Path) -> None:
        self.library = ctypes.CDLL(_core.__file__)
        self.library.ae_message.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p()
        self.status = self.library.ae_open(os.fsencode(bundle), None, ctypes.byref(self.handle))

    def file(self, name: str) -> tuple[int, ctypes.c_void_p, int]:
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        status = self.library.ae_file(self.handle, name.encode(), ctypes.byref(data), ctypes.byref(size))
        return status, data, size.value

    def message(self) -> str:
        return self.library.ae_message(self.handle).decode()

    def close(self) -> None:
        self.library.ae_close(self.handle)


@pytest.fixture
def native(bundle):
    with contextlib.closing(Native(bundle)) as native:
        yield native


def test_a_file_that_was_read_stays_whatever_happens_to_it(bundle, native):
    status, data, size = native.file("net.onnx")
    assert (status, size) == (0, len(NETWORK))
    os.truncate(network_file(bundle), 0)
    assert ctypes.string_at(data, size) == NETWORK  # a mapping would end the process here
    assert native.file("net.onnx")[0] == 0
    assert native.library.ae_file(native.handle, b"net.onnx", None, None) == 0


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_a_file_that_is_shortened_under_an_open_handle_ends_in_a_status(bundle, native, size):
    assert native.status == 0
    os.truncate(network_file(bundle), size)
    assert native.library.ae_file(native.handle, b"net.onnx", None, None) == 2
    assert "ends too early: it was shortened while it was open" in native.message()
    assert native.file("net.onnx")[0] == 2
    assert native.library.ae_file(native.handle, None, None, None) == 1


def test_a_file_that_is_changed_after_it_was_hashed_is_hashed_again(bundle, native):
    time.sleep(0.05)  # the file system's clock must tick
    with network_file(bundle).open("r+b") as file:
        file.seek(file.read().index(NETWORK) + 5000)
        file.write(b"!")
    assert native.file("net.onnx")[0] == 2
    assert "does not match its hash" in native.message()


def test_a_bundle_that_is_replaced_stays_open(bundle, native, tmp_path):
    network_file(bundle).rename(tmp_path / "old")
    status, data, size = native.file("net.onnx")
    assert (status, ctypes.string_at(data, size)) == (0, NETWORK)


def test_a_folder_of_many_files_takes_few_descriptors(engine, toy, tmp_path):
    others = {f"other-{i}": bytes([i]) for i in range(100)}
    write_members(tmp_path / "toy.aigc", toy.manifest(), {"net.onnx": NETWORK, **others})
    before = len(os.listdir("/proc/self/fd"))
    handle = _core.Handle(str(tmp_path / "toy.aigc"), None, verify=VERIFY_ALL)
    assert len(os.listdir("/proc/self/fd")) - before <= 40
    for name, data in others.items():
        assert handle.file(name) == data
    assert len(os.listdir("/proc/self/fd")) - before <= 40
    handle.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_constants_that_is_shortened_is_in_memory_already(engine, toy, make_bundle, tmp_path, packed):
    engine.networks["denoiser"] = toy.split_denoiser
    path = make_bundle("constants")
    if packed:
        Bundle.open(path, verify=True).pack(tmp_path / "packed.aigc")
        path = tmp_path / "packed.aigc"
    opened = pipeline.open(path, engine="analytic")
    expected = opened.sample(1, seed=3)
    os.truncate(path if packed else path / "schedule.table", 0)
    np.testing.assert_array_equal(opened.sample(1, seed=3), expected)


def test_a_status_leaves_its_own_sentence(native):
    assert native.library.ae_file(native.handle, b"ghost", None, None) == 1
    assert "no file ghost" in native.message()
    assert native.library.ae_stats(native.handle, None) == 1
    assert "ae_stats was given no statistics" in native.message()
    for size, status, message in ((4, 1, "ae_statistics.size is 4"), (32, 0, ""), (16, 0, ""), (48, 0, ""), (64, 0, "")):
        statistics = (ctypes.c_size_t * 9)(size, *[7] * 8)
        assert native.library.ae_stats(native.handle, statistics) == status
        assert message in native.message()
        assert bool(native.message()) == bool(status)
        written = min(size // 8, 6) if status == 0 else 1  # words; this version knows six
        assert list(statistics)[written:] == [7] * (9 - written)
    assert native.library.ae_stats(None, None) == 1


def test_a_handle_that_did_not_open_says_so_of_its_statistics(tmp_path):
    with contextlib.closing(Native(tmp_path / "nothing")) as native:
        assert native.status == 2
        assert native.library.ae_stats(native.handle, (ctypes.c_size_t * 4)(32)) == 1
        assert "did not open" in native.message()


OPEN = """
import sys
from aigc_edge import _core
for path in sys.argv[1:]:
    try:
        _core.Handle(path, None, verify=1)
    except Exception as error:
        print(str(error))
"""


def test_what_is_no_file_is_refused_at_once(make_bundle, tmp_path):
    paths = []
    for kind in ("fifo", "socket", "device", "folder"):
        for name in ("", "manifest.json", "manifest.sha256", "net.onnx"):
            path = tmp_path / f"{kind}-{name}"
            if name:
                bundle = make_bundle().rename(path)
                path = bundle / name
                path.unlink()
            elif kind == "folder":
                continue
            paths.append(bundle if name else path)
            if kind == "fifo":
                os.mkfifo(path)
            elif kind == "socket":
                folder = os.open(path.parent, os.O_RDONLY)
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a long path would not fit
                os.close(folder)
            elif kind == "device":
                path.symlink_to("/dev/zero")
            else:
                path.mkdir()
    result = subprocess.run([sys.executable, "-c", OPEN, *paths], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(paths) == 15
    for path, line in zip(paths, lines, strict=True):
        assert str(path) in line
        assert "it is not a regular file" in line


def with_manifest(bundle: Path, text: bytes) -> Path:
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())
    return bundle


def refuse(bundle: Path) -> str:
    """What the reader says."""
    with pytest.raises(BundleError) as raised:
        Bundle.open(bundle)
    return str(raised.value)


def test_objects_of_many_members_are_read_in_linear_time(make_bundle):
    text = (make_bundle() / "manifest.json").read_bytes()
    plain = json.loads(text)
    many = plain | {"later": {f"member {i}": i for i in range(400_000)}}
    bundle = with_manifest(make_bundle(), json.dumps(many).encode())
    start = time.process_time()
    Bundle.open(bundle)
    assert time.process_time() - start < 20  # a quadratic reader takes minutes
    twice = json.dumps(many).replace('"member 399999"', '"member 7"')
    start = time.process_time()
    assert 'the name "member 7" stands twice' in refuse(with_manifest(bundle, twice.encode()))
    assert time.process_time() - start < 20


@pytest.mark.parametrize("count", [2, 16, 17, 18, 300])
def test_a_name_that_stands_twice_is_found_wherever_it_stands(make_bundle, count):
    draw = np.random.default_rng()
    names = [f"m{i}" for i in range(count)]
    first, second = sorted(draw.choice(count, 2, replace=False))
    names[second] = names[first]
    text = (make_bundle() / "manifest.json").read_text().rstrip()
    later = ",".join(f'"{name}": 0' for name in names)
    message = refuse(with_manifest(make_bundle(), f'{text[:-1]}, "later": {{{later}}}}}'.encode()))
    assert f'the name "m{first}" stands twice' in message


def test_a_component_of_too_many_tensors_is_refused_at_once(make_bundle):
    value = json.loads((make_bundle() / "manifest.json").read_text())
    inputs = value["components"]["denoiser"]["inputs"]
    inputs += [
        {"name": f"text {i}", "role": "condition", "dtype": "float32", "shape": ["N", 1]} for i in range(4096 - len(inputs))
    ]
    bundle = with_manifest(make_bundle(), json.dumps(value).encode())
    start = time.process_time()
    Bundle.open(bundle)
    assert time.process_time() - start < 20
    inputs.append(inputs[-1] | {"name": "one too many"})
    assert "denoiser.inputs must hold at most 4096 tensors" in refuse(with_manifest(bundle, json.dumps(value).encode()))


def test_the_limits_of_size_and_depth(make_bundle):
    text = (make_bundle() / "manifest.json").read_bytes().rstrip()
    bundle = make_bundle()
    for depth, allowed in ((63, True), (64, True), (65, False)):
        nested = text[:-1] + b', "later": ' + b"[" * (depth - 1) + b"1" + b"]" * (depth - 1) + b"}"
        with_manifest(bundle, nested)
        if allowed:
            Bundle.open(bundle)
        else:
            assert "nested too deep" in refuse(bundle)
    Bundle.open(with_manifest(bundle, text + b" " * (MAX_BYTES - len(text))))
    message = refuse(with_manifest(bundle, text + b" " * (MAX_BYTES - len(text) + 1)))
    assert f"more than {MAX_BYTES} bytes" in message
    with pytest.raises(AigcEdgeError, match="more than 64 MiB"):
        _core.Handle(str(make_bundle()), None).add_program(" " * (MAX_BYTES + 1))


def test_an_archive_that_holds_many_files_twice_is_refused_at_once(make_bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.aigc", "w") as archive:
        for i in range(30_000):
            archive.writestr(f"{i}", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("7", b"")
    start = time.process_time()
    assert "holds 7 twice" in refuse(tmp_path / "twice.aigc")
    assert time.process_time() - start < 10


def test_a_sparse_manifest_is_not_read(make_bundle):
    bundle = make_bundle()
    os.truncate(bundle / "manifest.json", 1 << 40)  # no byte of it is on the disk
    with pytest.raises(BundleError, match=f"more than {MAX_BYTES} bytes"):
        _core.Handle(str(bundle), None)
