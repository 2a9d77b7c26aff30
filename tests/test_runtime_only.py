"""The wheel with nothing but its runtime dependencies: opens and samples without torch, bit for bit as everywhere.

`make test` makes that environment and names its Python in AIGC_EDGE_RUNTIME_PYTHON.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import aigc_edge

PYTHON = os.environ.get("AIGC_EDGE_RUNTIME_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="AIGC_EDGE_RUNTIME_PYTHON names no runtime-only environment (make test does)")


def output(code: str, folder: Path) -> str:
    return subprocess.check_output([PYTHON, "-c", code], cwd=folder, text=True)


def test_there_is_no_torch_and_nothing_else_that_is_heavy(tmp_path: Path) -> None:
    code = """
import importlib.util
names = ["torch", "onnx", "sklearn", "scipy", "safetensors", "diffusers", "tqdm", "tensorboard"]
print(" ".join(name for name in names if importlib.util.find_spec(name)))
"""
    assert output(code, tmp_path).split() == []


def test_the_two_lines_of_the_readme(tiny_bundle: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import aigc_edge
images = aigc_edge.open({str(tiny_bundle)!r}).sample(16, seed=3, classes=[7] * 16)
import numpy
numpy.save("images.npy", images)
print(" ".join(sorted({{name.split(".")[0] for name in sys.modules}})))
"""
    loaded = set(output(code, tmp_path).split())
    assert not loaded & {"torch", "onnx", "PIL", "scipy", "sklearn"}
    images = np.load(tmp_path / "images.npy")
    with aigc_edge.open(tiny_bundle) as pipeline:
        np.testing.assert_array_equal(images, pipeline.sample(16, seed=3, classes=[7] * 16))


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "BUNDLE"], ["sample", "BUNDLE", "-n", "4", "-o", "x.png"]])
def test_the_command_line_works(arguments: list[str], tiny_bundle: Path, tmp_path: Path) -> None:
    command = [str(Path(PYTHON).with_name("aigc-edge")), *[str(tiny_bundle) if a == "BUNDLE" else a for a in arguments]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bench_measures_what_is_installed_and_says_what_is_not(tiny_bundle: Path, tmp_path: Path) -> None:
    command = [str(Path(PYTHON).with_name("aigc-edge")), "bench", str(tiny_bundle), "--formats", "fp32"]
    options = ["--runs", "2", "--batch", "2", "--cold-starts", "1", "--quality-images", "0"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NumPy loop fp32" in done.stdout
    assert "torch was left out" in done.stdout
    assert "diffusers was left out" in done.stdout
