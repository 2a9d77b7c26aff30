"""The native core with an emulated GPU (tests/cpp/cuda_on_host.hpp), whose memory torch's CPU tensors see; built once."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cpp.conftest import Native

PLACE = Native.root / "build" / "tests-emulated"


def build(target: str) -> Path:
    """Build a target that has the emulated GPU; returns the folder where it is."""
    native, pybind = Native(), importlib.util.find_spec("pybind11")
    if pybind is None:
        pytest.skip("there is no pybind11 here")
    native.need("cmake")
    folder = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()
    python = ("-DAIGC_EDGE_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={folder}")
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:  # another process of the same test run
        fcntl.flock(lock, fcntl.LOCK_EX)
        native.build(PLACE, "-DAIGC_EDGE_TESTS=ON", "-DAIGC_EDGE_CUDA=OFF", *python, targets=(target,))
    return PLACE / "tests" / "cpp"


class EmulatedCore:
    """`module` stands for aigc_edge._core; between `record(f)` and `record(None)` f(number) is called for each operation."""

    def __init__(self) -> None:
        file = build("emulated_core") / "emulated" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        spec = importlib.util.spec_from_file_location("_core", file)
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self._library = ctypes.CDLL(str(file))
        self._callback: Any = None

    def record(self, recorder: Callable[[int], None] | None) -> None:
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int64)(recorder or 0)  # type: ignore[arg-type]
        self._library.emulation_record(self._callback)

    def repeat(self, number: int) -> None:
        """Do a recorded operation again."""
        self._library.emulation_repeat(ctypes.c_int64(number))


load = functools.cache(EmulatedCore)
