"""Where nvcc is: the CUDA kernels compile without a warning for every architecture that a target names, and PTX of the last."""

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
    targets = [json.loads(file.read_text()) for file in (native.root / "aigc_edge" / "targets").glob("*.json")]
    wanted = {str(target["sm"]) for target in targets if target.get("sm")}
    assert wanted >= {"75", "80", "86", "87", "89", "90", "100", "110", "120"}
    commands = json.loads((folder / "compile_commands.json").read_text())
    for command in (entry["command"] for entry in commands if entry["file"].endswith(".cu")):
        real = set(re.findall(r"code=\[?sm_(\d+)", command))
        assert real == wanted
        assert re.findall(r"code=\[?compute_(\d+)", command) == [max(wanted, key=int)]
