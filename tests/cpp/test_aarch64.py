"""Where a cross compiler and qemu are: the NEON kernels, run in an emulated Arm CPU, equal the CUDA kernels' scalar code."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(platform.machine() == "aarch64", reason="this is a 64-bit Arm machine: every other test runs there"),
    pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="there is no aarch64-linux-gnu-g++ here"),
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="there is no qemu-aarch64 here"),
]
PROGRAMS = ("test_philox", "test_parallel", "cuda_emulation")


@pytest.fixture(scope="module")
def folder(native: Any) -> Path:
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={native.root}/csrc/cmake/aarch64.cmake"
    built = native.build(native.root / "build" / "tests-aarch64", toolchain, "-DAIGC_EDGE_TESTS=ON", targets=PROGRAMS)
    return built / "tests" / "cpp"


def emulate(native: Any, *command: str | Path) -> str:
    return native.run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", *command)


def test_philox_and_threads(native: Any, folder: Path) -> None:
    assert emulate(native, folder / "test_philox") == "done\n"
    assert emulate(native, folder / "test_parallel", "without-fork") == "done\n"


def test_kernels_equal_scalar_code(native: Any, folder: Path, op_cases: tuple[Path, str]) -> None:
    cases, expected = op_cases
    assert emulate(native, folder / "cuda_emulation", cases) == expected
