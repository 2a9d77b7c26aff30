"""TensorRT-RTX builds what the int8 recipe writes for it, and runs it in int8 (proven from the build log, without a GPU)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from aigc_edge.compress.format import parse
from aigc_edge.engines.plans.plan import PlanRequest, build_plan

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.mark.parametrize("floats", ["fp32", "fp16"])
def test_unet_runs_in_int8(rng: np.random.Generator, make: dict, floats: str, tmp_path: Path) -> None:
    net = make["unet"](rng)
    out = tmp_path / "int8.onnx"
    parse(f"int8:engine=tensorrt,psnr=0,aim=0,rank=false,floats={floats}").convert(net.write(tmp_path), out, net.calibration(4))
    plan = build_plan(PlanRequest(out, "int8", 86, "rtx-30"), cache=tmp_path / "cache")
    precision = plan.report["precision"]
    assert precision["layers"]["int8"] >= 12
    # Attention multiplies activations with each other: those products stay in float, and are all that does.
    assert set(precision["layers"]) <= {"int8", floats}
    assert precision["macs_share"]["int8"] > 0.9
