"""Engines leave nothing in the user's home and cache but what this package documents."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_edge import hardware
from aigc_edge.engines.base import ENGINES

ROOT = Path(hardware.__file__).parents[1]
BUNDLE = Path(__file__).parents[1] / "bundle" / "data"
CODE = """
import sys, aigc_edge
aigc_edge.open(sys.argv[1], engine=sys.argv[2], threads=1).sample(1)
"""
OTHERS = """
import sys
from aigc_edge.hardware import import_onnxruntime
import_onnxruntime().InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def left(folder: Path, code: str, *arguments: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, timeout=300)
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nothing_is_left_behind(tmp_path: Path, engine: str) -> None:
    if reason := ENGINES[engine].unavailable():
        pytest.skip(reason)
    bundle = next(path for path in sorted(BUNDLE.glob("*.aigc")) if path.is_dir())
    assert left(tmp_path, CODE, str(bundle), engine) == []


def test_what_runs_networks_elsewhere_leaves_nothing_either(tmp_path: Path) -> None:
    network = next(BUNDLE.rglob("*.onnx"))
    assert left(tmp_path, OTHERS, str(network)) == []


def test_onnxruntime_is_imported_in_one_place() -> None:
    found = [
        path.name for path in (ROOT / "aigc_edge").rglob("*.py") if "import onnxruntime\n" in path.read_text(encoding="utf-8")
    ]
    assert found == ["hardware.py"]


def test_a_setting_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    hardware.import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
