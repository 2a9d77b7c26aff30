"""TensorRT-RTX builds what every format writes for it, from the capability on that it requires (no GPU is needed)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import FORMATS, parse
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision
from aigc_edge.config import names
from aigc_edge.engines.base import ENGINES, INTEGER_FORMATS
from aigc_edge.engines.formats import least_capability
from aigc_edge.engines.plans.plan import PlanRequest, build_plan
from aigc_edge.errors import AigcEdgeError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
SERVED = (75, 80, 86, 89, 120)  # what it builds for here
RUNS = {"fp8": "fp8", "bf16": "bf16"}  # the others multiply halves


# A generator builds in a second; matrix products and attention are tried with weights and with activations in few bits.
FAMILY = {"int4": "transformer", "fp8": "transformer"}


def _written(families: dict[str, Any], name: str, family: str, folder: Path) -> Path:
    source, spec, program, classes = families[family]
    format = FORMATS[name]
    options: dict[str, Any] = {"psnr": 0.0} | ({"engine": "tensorrt"} if "engine" in names(format) else {})
    out = folder / f"{name}.onnx"
    format(**options).convert(source, out, Calibration.draw(spec, program, 4, num_classes=classes))
    return out


def _least(name: str) -> int:
    least = least_capability(FORMATS[name], ENGINES["tensorrt"])
    assert least is not None
    return least


# int8: test_int8_tensorrt.py; w4a8 is for CPUs.
@pytest.mark.parametrize(
    "name", [name for name in FORMATS if issubclass(FORMATS[name], MixedPrecision) and name not in INTEGER_FORMATS]
)
def test_plan_of_every_format(families: dict[str, Any], name: str, tmp_path: Path) -> None:
    out = _written(families, name, FAMILY.get(name, "gan"), tmp_path)
    sm = next(sm for sm in SERVED if sm >= _least(name))
    share = build_plan(PlanRequest(out, name, sm, f"SM{sm}"), cache=tmp_path).report["precision"]["macs_share"]
    assert share[RUNS.get(name, "fp16")] > 0.8  # attention's own products stay in half precision
    assert set(share) <= {RUNS.get(name, "fp16"), "fp16"}


@pytest.mark.parametrize("name", ["int4", "fp8w", "nvfp4"])
def test_older_cards_refuse_the_type(families: dict[str, Any], name: str, tmp_path: Path) -> None:
    sm = max(sm for sm in SERVED if sm < _least(name))
    with pytest.raises(AigcEdgeError, match="does not run there"):
        build_plan(PlanRequest(_written(families, name, "gan", tmp_path), name, sm, f"SM{sm}"), cache=tmp_path)


def test_plans_hold_weights_in_few_bits(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """Not dequantised when the plan is built: it shrinks with the file, by what a plan holds beside weights less."""
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
        helper.make_node("MatMul", ["a", "b.weight"], ["b"]),
        helper.make_node("MatMul", ["b", "c.weight"], ["y"]),
    ]
    shapes = {"a.weight": (64, 1024), "b.weight": (1024, 4096), "c.weight": (4096, 8)}
    constants = {key: rng.standard_normal(shape).astype(np.float32) / 32 for key, shape in shapes.items()}
    net = make["decoder"]("large", nodes, constants, [64], [8])
    source, sizes = net.write(tmp_path), {}
    for text in ("fp16", "int8w:engine=tensorrt", "int4:scaled=false,engine=tensorrt"):
        name, out = text.split(":")[0], tmp_path / "out.onnx"
        parse(text).convert(source, out)
        sizes[name] = build_plan(PlanRequest(out, name, 89, "SM89"), cache=tmp_path).report["plan_bytes"]
    weights = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    assert sizes["fp16"] - sizes["int8w"] > 0.45 * weights
    assert sizes["fp16"] - sizes["int4"] > 0.65 * weights
