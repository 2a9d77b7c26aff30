"""The two Python modules with the same API: `tensorrt` (JetPack, NVIDIA's index; 10.3 to 11.x) and `tensorrt_rtx` (PyPI)."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

from aigc_edge.errors import AigcEdgeError, EngineUnavailable

MODULES = ("tensorrt", "tensorrt_rtx")  # full TensorRT first: it supports more devices
_PACKAGES = {
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}


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


def module_version(module: str) -> str:
    """The installed version of one of the two modules, as the module reports it; "" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    for package in _PACKAGES.get(module, ()):
        try:
            return re.sub(r"\.?(post|dev|rc|\+).*", "", version(package))  # suffixes of packagers
        except PackageNotFoundError:
            continue
    try:
        return str(import_tensorrt(module).__version__)  # a system package, as on JetPack
    except AigcEdgeError:
        return ""


def accepted(answer: bool, what: str) -> None:
    """Raise AigcEdgeError when TensorRT rejected a call."""
    if not answer:
        raise AigcEdgeError(f"TensorRT refused {what}: the plan does not fit the bundle, compile it again")
