"""A C program outside the project finds the installed library with CMake and draws what Python draws."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import aigc_edge

SOURCE = Path(__file__).parent / "embed"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the two consumers, linked to the shared and to the static library."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    found = sorted(Path(p) for p in aigc_edge.__path__ for p in Path(p).rglob("aigc_edgeConfig.cmake"))
    if not found:
        found = sorted(Path(aigc_edge._core.__file__).parent.rglob("aigc_edgeConfig.cmake"))
    assert found, "the package installs no aigc_edgeConfig.cmake"
    folder = tmp_path_factory.mktemp("embed")
    for command in (["cmake", "-S", SOURCE, "-B", folder, f"-Daigc_edge_DIR={found[0].parent}"], ["cmake", "--build", folder]):
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.parametrize("program", ["embed_shared", "embed_static"])
def test_a_c_program_draws_what_python_draws(built, make_bundle, open_toy, engine, program):
    def network(sample, timestep, class_labels):
        return sample / np.float32(2) + class_labels[:, None, None, None].astype(np.float32) / np.float32(10)

    bundle = make_bundle()
    engine.networks["denoiser"] = network
    result = subprocess.run([built / program, bundle], capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    expected = aigc_edge.open(bundle, engine="analytic").sample(3, seed=42, classes=[0, 3, -1])
    np.testing.assert_array_equal(np.frombuffer(result.stdout, np.uint8).reshape(expected.shape), expected)
