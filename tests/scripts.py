"""The scripts in tools/ as modules, for tests of their functions. They are no package: make starts them as files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def load_script(name: str) -> ModuleType:
    """A fresh module made from tools/<name>.py; it is not registered in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(f"aigc_edge_tools_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
