"""The CUDA kernels of every op, run on the CPU under AddressSanitizer and compared with the CPU kernels to 1e-6."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


def run_emulation(program: Path, argument: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ASAN_OPTIONS": "detect_stack_use_after_return=0"}  # fibres have stacks of their own
    return subprocess.run([program, argument], text=True, capture_output=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def program(native: Any) -> Path:
    return native.build_test("cuda_emulation")


def test_kernels_stay_in_bounds_and_equal_the_cpu_kernels(program: Path, op_cases: tuple[Path, str]) -> None:
    cases, expected = op_cases
    result = run_emulation(program, cases)
    assert (result.returncode, result.stdout) == (0, expected), result.stderr


def test_the_rows_of_a_program_are_one_kernel_each_and_equal_those_on_the_cpu(program: Path) -> None:
    result = run_emulation(program, "--rows")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_a_planted_write_out_of_bounds_is_seen(program: Path) -> None:
    result = run_emulation(program, "--planted")
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
    assert "planted_kernel" in result.stderr


def test_barriers_shuffles_and_shared_memory_work(program: Path) -> None:
    result = run_emulation(program, "--self")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
