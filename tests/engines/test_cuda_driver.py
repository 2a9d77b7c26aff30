"""The driver's calls through a library that records them and fills what C would fill."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from aigc_edge.engines import cuda_driver
from aigc_edge.errors import AigcEdgeError, EngineUnavailable


class FakeLibrary:
    """Answers like libcuda of a machine with one Ampere card; `fail` names a call that returns error 2."""

    def __init__(self, count=1, fail=""):
        self.count, self.fail, self.calls = count, fail, []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, arguments))
            if name == self.fail:
                return 2
            target = getattr(arguments[0], "_obj", None)
            if name == "cuDeviceGetCount":
                target.value = self.count
            elif name == "cuDeviceGetName":
                arguments[0].value = b"Fake RTX"
            elif name == "cuDeviceTotalMem_v2":
                target.value = 12 << 30
            elif name == "cuDeviceGetAttribute":
                target.value = {75: 8, 76: 6}[arguments[1]]
            elif name == "cuGetErrorString":
                arguments[1]._obj.value = b"out of memory"
            elif name in ("cuMemAlloc_v2", "cuStreamCreate", "cuDevicePrimaryCtxRetain"):
                target.value = 4096
            elif name == "cuMemcpyHtoDAsync_v2":
                self.seen = ctypes.string_at(arguments[1].value, arguments[2].value)
            elif name == "cuMemcpyDtoHAsync_v2":
                ctypes.memmove(arguments[0].value, bytes(range(arguments[2].value)), arguments[2].value)
            return 0

        return call


def _install(monkeypatch, library):
    monkeypatch.setattr(cuda_driver, "_library", lambda: library)
    return library


def test_the_device_is_described(monkeypatch):
    _install(monkeypatch, FakeLibrary())
    assert cuda_driver.device() == cuda_driver.Device("Fake RTX", 86, 12 << 30)


@pytest.mark.parametrize("library", [None, FakeLibrary(count=0)])
def test_no_driver_or_no_card_is_no_device(monkeypatch, library):
    _install(monkeypatch, library)
    assert cuda_driver.device() is None


def test_without_a_driver_a_stream_says_so(monkeypatch):
    _install(monkeypatch, None)
    with pytest.raises(EngineUnavailable, match="no NVIDIA GPU"):
        cuda_driver.Stream()


def test_memory_is_copied_both_ways(monkeypatch):
    library = _install(monkeypatch, FakeLibrary())
    stream = cuda_driver.Stream()
    assert stream.handle == 4096
    pointer = stream.allocate(24)
    data = np.arange(6, dtype=np.float32)
    stream.upload(pointer, data)
    assert library.seen == data.tobytes()
    target = np.zeros(8, np.uint8)
    stream.download(target, pointer)
    np.testing.assert_array_equal(target, np.arange(8))
    stream.wait()
    stream.free(pointer)
    names = [name for name, _ in library.calls]
    assert names.index("cuCtxSetCurrent") < names.index("cuStreamCreate")
    assert names[-1] == "cuMemFree_v2"
    sizes = [a for name, a in library.calls if name in ("cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2")]
    assert [sizes[0][1].value, sizes[1][2].value] == [24, 24]


def test_a_failing_call_is_a_sentence_with_its_reason(monkeypatch):
    _install(monkeypatch, FakeLibrary(fail="cuMemAlloc_v2"))
    stream = cuda_driver.Stream()
    with pytest.raises(AigcEdgeError, match="call cuMemAlloc_v2 failed: out of memory"):
        stream.allocate(1 << 40)
