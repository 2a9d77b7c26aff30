"""Builds C++ with CMake for tests: only what they need, and only what changed."""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge import ops

DTYPES = ["float32", "float64", "uint8", "int32", "int64", "uint32", "uint64", "float16"]  # as in csrc/core/tensor.hpp


class Native:
    """The project's sources, and the tools that build them."""

    root = Path(__file__).resolve().parents[2]
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

    def find(self, name: str) -> str | None:
        """The path of a program, that of this Python environment first."""
        return shutil.which(name, path=self.search)

    def need(self, name: str) -> str:
        """The same; skips the test where there is none."""
        found = self.find(name)
        if found is None:
            pytest.skip(f"there is no {name} here")
        return found

    def run(self, *command: str | Path, environment: dict[str, str] | None = None) -> str:
        """Run a command and return what it printed; on failure the test fails with it."""
        words = [str(part) for part in command]
        merged = os.environ | (environment or {})
        result = subprocess.run(words, cwd=self.root, env=merged, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert result.returncode == 0, f"{' '.join(words)} exited with {result.returncode}:\n{result.stdout[-8000:]}"
        return result.stdout

    def build(self, folder: Path, *definitions: str, source: Path | None = None, targets: tuple[str, ...] = ()) -> Path:
        """Configure `source` (the project) in `folder` and build the targets (or all); returns the folder."""
        cmake = self.need("cmake")
        generator = ("-G", "Ninja") if self.find("ninja") else ()
        self.run(cmake, "-S", source or self.root, "-B", folder, *generator, *definitions)
        self.run(cmake, "--build", folder, "--parallel", str(os.cpu_count() or 1), *(("--target", *targets) if targets else ()))
        return folder

    def build_test(self, name: str) -> Path:
        """Build one program of tests/cpp and return its path."""
        folder = self.build(self.root / "build" / "tests-cpp", "-DAIGC_EDGE_TESTS=ON", "-DAIGC_EDGE_CUDA=OFF", targets=(name,))
        return folder / "tests" / "cpp" / name


@pytest.fixture(scope="session")
def native() -> Native:
    return Native()


def packed(arguments: dict[str, Any], name: str, kind: str) -> bytes:
    """One argument as cuda_emulation.cpp reads it: its kind as in csrc/ops/arguments.hpp, then its value."""
    if name not in arguments:
        return b"\0"
    value = arguments[name]
    if value is None:
        return b"\1"
    if isinstance(value, np.ndarray):
        header = struct.pack("4B", 2, "host" in kind, DTYPES.index(value.dtype.name), value.ndim)
        return header + struct.pack(f"{value.ndim}q", *value.shape) + value.tobytes()
    return struct.pack("<Bq", 3, value) if isinstance(value, int) else struct.pack("<Bd", 4, value)


@pytest.fixture
def op_cases(tmp_path: Path, native: Native) -> tuple[Path, str]:
    """All samples of all ops that have a CUDA kernel in a file for the program cuda_emulation, and what that must print."""
    seed = secrets.randbits(32)
    print(f"seed of the random inputs: {seed}")
    lines = []
    with (tmp_path / "cases").open("wb") as file:
        for name, op in sorted(ops.OPS.items()):
            if not (native.root / "csrc" / "ops" / name / "cuda.cu").is_file():
                continue
            cases = list(ops.MODULES[name].samples(np.random.default_rng(seed)))
            lines.append(f"{name} {len(cases)}\n")
            for arguments in cases:
                file.write(struct.pack("B", len(name)) + name.encode() + struct.pack("B", len(op.types)))
                file.write(b"".join(packed(arguments, parameter, kind) for parameter, kind in op.types.items()))
    assert lines
    return tmp_path / "cases", "".join([*lines, "done\n"])
