"""What the command line and the package load: nothing heavy until it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, aigc_edge; print(' '.join(sorted(name.split('.')[0] for name in sys.modules)))"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).split())
    assert not loaded & {
        "torch",
        "onnxruntime",
        "onnx",
        "PIL",
        "sklearn",
        "tensorrt",
        "tensorrt_rtx",
        "diffusers",
        "scipy",
        "numpy",
    }


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from aigc_edge.cli import build_parser; build_parser().format_help(); print(' '.join(sys.modules))"
    loaded = {
        name.split(".")[0] for name in subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).split()
    }
    assert not loaded & {"torch", "onnxruntime", "onnx", "PIL", "sklearn", "numpy"}
