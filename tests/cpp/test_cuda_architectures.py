"""Where nvcc is: the CUDA kernels compile without a warning for every architecture that a release has."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

NVCC = [os.environ.get("CUDACXX"), shutil.which("nvcc"), f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc"]


@pytest.mark.skipif(not any(place and Path(place).is_file() for place in NVCC), reason="there is no nvcc here")
def test_all_release_architectures_compile(native: Any, tmp_path: Path) -> None:
    definitions = ("-DAIGC_EDGE_RELEASE=ON", "-DAIGC_EDGE_CUDA=ON", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    folder = native.build(tmp_path, *definitions, targets=("aigc_edge_ops_cuda",))
    assert len(list(folder.rglob("*.cu.o"))) == len(list((native.root / "csrc" / "ops").glob("*/cuda.cu")))
    commands = json.loads((folder / "compile_commands.json").read_text())
    for command in (entry["command"] for entry in commands if entry["file"].endswith(".cu")):
        real = set(re.findall(r"code=\[?sm_(\d+)", command))
        assert real == {"75", "80", "86", "87", "89", "90", "100", "110", "120"}
        assert re.findall(r"code=\[?compute_(\d+)", command) == ["120"]
