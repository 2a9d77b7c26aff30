"""The modules of examples/zoo, imported as its own command imports them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ZOO = Path(__file__).resolve().parents[2] / "examples" / "zoo"
MODULES = ("packages", "tfjs", "measure", "esrgan", "faces", "terrain", "ecg")


@pytest.fixture(scope="module")
def zoo() -> SimpleNamespace:
    """zoo.packages, zoo.tfjs …"""
    for needed in ("torch", "onnx", "PIL"):
        pytest.importorskip(needed)
    sys.path.insert(0, str(ZOO))
    try:
        modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(ZOO))
    return SimpleNamespace(**modules)
