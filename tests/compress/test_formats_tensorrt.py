"""TensorRT-RTX builds what every format writes for it, from the capability on that the format names (no GPU is needed)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from aigc_edge.compress.calibration import Calibration
from aigc_edge.compress.formats import FORMATS, convert
from aigc_edge.compress.mixture import Mixed
from aigc_edge.config import names
from aigc_edge.engines.tensorrt_plan import PlanRequest, build_plan
from aigc_edge.errors import AigcEdgeError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
SERVED = (75, 80, 86, 89, 120)  # what it builds for here
RUNS = {"fp8": "fp8", "bf16": "bf16"}  # the others multiply halves


@pytest.mark.parametrize("name", [name for name in FORMATS if issubclass(FORMATS[name], Mixed)])
def test_plan_of_every_format(families: dict[str, Any], name: str, tmp_path: Path) -> None:
    source, spec, program, classes = families["transformer"]
    format = FORMATS[name]
    assert issubclass(format, Mixed)
    options: dict[str, Any] = {"psnr": 0.0} | ({"engine": "tensorrt"} if "engine" in names(format) else {})
    out = tmp_path / f"{name}.onnx"
    convert(format(**options), source, out, Calibration.draw(spec, program, 4, num_classes=classes))
    able = [sm for sm in SERVED if sm >= format.least_sm]
    plan = build_plan(PlanRequest(out, name, able[0], f"SM{able[0]}"), cache=tmp_path)
    share = plan.report["precision"]["macs_share"]
    assert share[RUNS.get(name, "fp16")] > 0.8  # attention's own products stay in half precision
    assert set(share) <= {RUNS.get(name, "fp16"), "fp16"}
    if able[0] > SERVED[0]:
        before = SERVED[SERVED.index(able[0]) - 1]
        if name != "sparse24":  # zeros are weights like others where no hardware skips them
            with pytest.raises(AigcEdgeError):
                build_plan(PlanRequest(out, name, before, f"SM{before}"), cache=tmp_path)
