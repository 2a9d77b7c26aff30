"""The scripts in tools/ as modules, for tests of their functions. They are no package: make starts them as files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def load_script(name: str) -> ModuleType:
    """A fresh module made from tools/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"aigc_edge_tools_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
