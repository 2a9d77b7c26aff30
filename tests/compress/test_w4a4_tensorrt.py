"""TensorRT-RTX multiplies in 4-bit floats what the format writes so for Blackwell cards (proven from the log, without a GPU)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import parse
from aigc_edge.engines.plans.graph import check_model
from aigc_edge.engines.plans.plan import PlanRequest, build_plan
from aigc_edge.errors import AigcEdgeError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


def _written(families: dict[str, Any], family: str, folder: Path, floats: str = "fp16") -> Path:
    source, spec, program, classes = families[family]
    out, text = folder / f"{family}.onnx", f"nvfp4:psnr=0,activations=fp4,engine=tensorrt,floats={floats}"
    parse(text).convert(source, out, Calibration.draw(spec, program, 4, num_classes=classes))
    return out


@pytest.mark.parametrize("floats", ["fp16", "fp32"])
def test_products_run_in_four_bits(families: dict[str, Any], floats: str, tmp_path: Path) -> None:
    out, count = _written(families, "transformer", tmp_path, floats), 8
    asked = [layer for layer in check_model(out) if layer.format == "w4a4"]
    assert len(asked) == count
    assert {layer.runs for layer in asked} == {"fp4"}
    report = build_plan(PlanRequest(out, "nvfp4", 120, "rtx-50"), cache=tmp_path).report
    table = {name: row["precision"] for row in report["precision"]["table"] for name in row["nodes"]}
    assert [table[layer.name] for layer in asked] == ["fp4"] * count  # query, key and value are one of them
    assert [table[layer.output] for layer in asked] == ["fp4"] * count  # as compression reports, and why.html, know them
    assert report["precision"]["layers"]["fp4"] == count
    assert set(report["precision"]["layers"]) == {"fp4", floats}
    assert report["precision"]["as_asked"] == 1
    assert report["surprises"] == []


@pytest.mark.parametrize(("sm", "card"), [(89, "rtx-40"), (86, "rtx-30")])
def test_older_cards_are_refused_before_the_build(families: dict[str, Any], sm: int, card: str, tmp_path: Path) -> None:
    out = _written(families, "transformer", tmp_path)
    words = f"cannot be built for {card}: its .* does not run there, (4-bit floats begin with Blackwell|8-bit floats begin)"
    with pytest.raises(AigcEdgeError, match=words):
        build_plan(PlanRequest(out, "nvfp4", sm, card), cache=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*.plan"))


@pytest.mark.parametrize("form", ["flat", "tokens", "images"])
def test_every_shape_of_a_product(rng: np.random.Generator, make: dict, form: str, tmp_path: Path) -> None:
    """Tokens in rows, in rows and columns, and one below the other with and without a bias; odd numbers of outputs."""
    size = [3, 5, 64] if form == "images" else [5, 64]
    weights = {f"{name}.weight": rng.standard_normal((64, 64)).astype(np.float32) / 8 for name in "abe"}
    weights |= {"c.weight": rng.standard_normal((96, 64) if form == "flat" else (64, 96)).astype(np.float32) / 8}
    weights |= {"d.weight": rng.standard_normal((96, 33)).astype(np.float32) / 8, "e.weight": np.ones((33, 64), np.float32)}
    weights |= {"bias": np.ones(96, np.float32), "rows": np.array([-1, 64]), "back": np.array([-1, *size])}
    flat = form == "flat"
    upright = helper.make_node("Gemm", ["b", "c.weight", "bias"], ["c"], transB=1)
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
        helper.make_node("Reshape" if flat else "Identity", ["a", "rows"] if flat else ["a"], ["r"]),
        helper.make_node("Gemm" if flat else "MatMul", ["r", "b.weight"], ["b"]),
        upright if flat else helper.make_node("MatMul", ["b", "c.weight"], ["c"]),
        helper.make_node("Gemm" if flat else "MatMul", ["c", "d.weight"], ["d"]),
        helper.make_node("MatMul", ["d", "e.weight"], ["e"]),
        helper.make_node("Reshape", ["e", "back"], ["y"]),
    ]
    net, out = make["decoder"](form, nodes, weights, size, size), tmp_path / "out.onnx"
    parse("nvfp4:psnr=0,activations=fp4,engine=tensorrt").convert(net.write(tmp_path), out, net.calibration(4))
    onnx.checker.check_model(out, full_check=True)
    report = build_plan(PlanRequest(out, "nvfp4", 120, "rtx-50"), cache=tmp_path).report
    assert report["precision"]["layers"]["fp4"] == 3
    assert report["precision"]["as_asked"] == 1
