"""The CUDA driver API calls that engines need, through ctypes: only the driver has to be installed, no CUDA package."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from aigc_edge.errors import AigcEdgeError, EngineUnavailable

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NON_BLOCKING = 1


@dataclass(frozen=True)
class Device:
    """The first CUDA device: `sm` is its compute capability times ten, `memory` its total memory in bytes."""

    name: str
    sm: int
    memory: int


@functools.cache
def _library() -> Any | None:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return library if library.cuInit(0) == 0 else None
    return None


def _call(name: str, *arguments: Any) -> None:
    library = _library()
    if library is None:
        raise EngineUnavailable("this machine has no NVIDIA GPU with a driver")
    status = getattr(library, name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode() if text.value else f"error {status}"
        raise AigcEdgeError(f"the NVIDIA driver call {name} failed: {reason}; try a smaller batch or --engine onnxruntime")


def device() -> Device | None:
    """The device that engines run on, or None where there is no driver or no GPU."""
    if _library() is None:
        return None
    count, handle, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    _call("cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        return None
    _call("cuDeviceGet", ctypes.byref(handle), 0)
    text = ctypes.create_string_buffer(128)
    _call("cuDeviceGetName", text, len(text), handle)
    _call("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
        parts.append(value.value)
    return Device(text.value.decode(), parts[0] * 10 + parts[1], memory.value)


class Stream:
    """A stream in the device's primary context (which TensorRT uses too), with stream-ordered copies."""

    def __init__(self) -> None:
        handle, self._context, self._stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuDeviceGet", ctypes.byref(handle), 0)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        self.enter()
        _call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)

    @property
    def handle(self) -> int:
        return self._stream.value or 0

    def enter(self) -> None:
        """Make the context current in the calling thread, since the runtime may call from any thread."""
        _call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes; release it with `free`."""
        pointer = ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def free(self, pointer: int) -> None:
        self.enter()
        _call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer: int, source: NDArray[Any]) -> None:
        """Queue a copy of the contiguous `source` to the device."""
        _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), _address(source), ctypes.c_size_t(source.nbytes), self._stream)

    def download(self, target: NDArray[Any], pointer: int) -> None:
        """Queue a copy from the device into the contiguous `target`."""
        _call("cuMemcpyDtoHAsync_v2", _address(target), ctypes.c_uint64(pointer), ctypes.c_size_t(target.nbytes), self._stream)

    def wait(self) -> None:
        """Block until all queued work has completed."""
        _call("cuStreamSynchronize", self._stream)


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
