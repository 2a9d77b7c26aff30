"""The two Python modules with the same API: `tensorrt` (JetPack, NVIDIA's index; 10.3 to 11.x) and `tensorrt_rtx` (PyPI)."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from aigc_edge.errors import EngineUnavailable

MODULES = ("tensorrt", "tensorrt_rtx")  # full TensorRT first: it supports more devices


def installed() -> list[str]:
    """Which of the two modules are installed."""
    return [name for name in MODULES if importlib.util.find_spec(name) is not None]


def import_tensorrt(name: str) -> Any:
    """Import one of the two modules; raises EngineUnavailable with installation instructions."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        package = "tensorrt-rtx-cu13" if name == "tensorrt_rtx" else "tensorrt"
        raise EngineUnavailable(f"the module {name!r} cannot be imported ({error}): pip install {package}") from error
