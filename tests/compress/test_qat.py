"""Training with the rounding in the loop: better than rounding alone, in the same file but for codes, budget and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from aigc_edge.compress.calibration.trajectory import Calibration, mean_square, psnr
from aigc_edge.compress.format import parse
from aigc_edge.compress.formats.int4 import Int4
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision, convert_layers
from aigc_edge.errors import AigcEdgeError, BudgetError


def test_training_beats_rounding_at_four_bits(families: dict[str, Any], tmp_path: Path) -> None:
    source, spec, program, classes = families["diffusion"]
    calibration = Calibration.draw(spec, program, 8, num_classes=classes, seed=1)
    plain, trained = tmp_path / "plain.onnx", tmp_path / "trained.onnx"
    parse("int4:psnr=0,block=32").convert(source, plain, calibration)
    report = parse("int4:psnr=0,block=32,qat=100").convert(source, trained, calibration).to_json()
    other = Calibration.draw(spec, program, 8, num_classes=classes, seed=2)
    wanted = other.run(graph.Network(source))
    errors = [mean_square(other.run(graph.Network(folded(graph.load(path)))), wanted) for path in (plain, trained)]
    assert errors[1] < 0.75 * errors[0], "1.2 dB from noise that neither saw"
    assert report["qat"]["steps"] == 100
    assert report["psnr"] == report["qat"]["psnr_after"] > report["qat"]["psnr_before"]
    assert report["bytes"] == trained.stat().st_size
    assert abs(trained.stat().st_size - plain.stat().st_size) < 100
    # Codes and floats moved; types, shapes, scales and nodes are those of the format.
    a, b = (onnx.load(path) for path in (plain, trained))
    assert [node.SerializeToString() for node in a.graph.node] == [node.SerializeToString() for node in b.graph.node]
    before, after = graph.initialisers(a), graph.initialisers(b)
    four = [tensor.name for tensor in b.graph.initializer if tensor.data_type == TensorProto.INT4]
    assert four
    assert any((before[name] != after[name]).any() for name in four)
    assert all(np.abs(after[name].astype(np.float32)).max() <= 7 for name in four)
    for node in b.graph.node:
        if node.op_type == "DequantizeLinear":
            np.testing.assert_array_equal(before[node.input[1]], after[node.input[1]])


@pytest.mark.parametrize("text", ["int8:qat=5,rank=false,psnr=5,aim=0", "int4:qat=5,engine=tensorrt,psnr=5"])
def test_other_forms(families: dict[str, Any], text: str, tmp_path: Path) -> None:
    """int8 with rounded activations, and weights of a network in float16: trained in float32, written as they were."""
    source, spec, program, classes = families["transformer"]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes, seed=1)
    report = parse(text).convert(source, tmp_path / "out.onnx", calibration).to_json()
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    assert report["qat"]["psnr_after"] >= report["qat"]["psnr_before"] > 15
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("text", ["int4:psnr=0,scaled=false", "int4:psnr=0", "int8:psnr=0,aim=0,rank=false"])
@pytest.mark.parametrize("family", ["gan", "transformer"])
def test_master_weights_round_to_the_codes(families: dict[str, Any], text: str, family: str) -> None:
    """Every weight in the format has its own, also where its channels were scaled; most are no codes themselves."""
    source, spec, program, classes = families[family]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes, seed=1)
    format = parse(text)
    assert isinstance(format, MixedPrecision)
    conversion = convert_layers(format, source, calibration, lambda *_: None, 1)
    masters, constants = conversion.recipe.master_weights(), graph.initialisers(conversion.model)
    codes = {node.input[0] for node in conversion.model.graph.node if node.op_type == "DequantizeLinear"} & constants.keys()
    codes -= {name for name in codes if name.endswith("_bias_int32")}
    assert codes
    assert codes <= masters.keys()
    for name in codes:
        np.testing.assert_array_equal(np.rint(masters[name]), constants[name].astype(np.float32))
        assert np.mean(masters[name] != constants[name].astype(np.float32)) > 0.5


def test_a_budget_that_training_cannot_hold(families: dict[str, Any], tmp_path: Path) -> None:
    source, spec, program, classes = families["gan"]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes)
    with pytest.raises(BudgetError, match=r"150\.0 dB"):
        Int4(psnr=150.0, qat=3).convert(source, tmp_path / "out.onnx", calibration)
    with pytest.raises(AigcEdgeError, match="needs calibration data"):
        Int4(qat=3).convert(source, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missed_budget_returns_layers_to_float(families: dict[str, Any], tmp_path: Path) -> None:
    """More than all layers in int4 reach, even trained, and less than the float network: a mixture, trained."""
    source, spec, program, classes = families["diffusion"]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes, seed=1)
    least = parse("int4:psnr=0,qat=15").convert(source, tmp_path / "all.onnx", calibration).to_json()["psnr"] + 1.5
    report = parse(f"int4:psnr={least:.3f},qat=15,min_share=0.1").convert(source, tmp_path / "out.onnx", calibration).to_json()
    assert report["psnr"] >= least - 1e-3
    assert {node["format"] for node in report["nodes"].values()} > {"int4"}
    limits = calibration.limits
    held = calibration.split(2)[1]
    wanted = held.run(graph.Network(source))
    again = psnr(mean_square(held.run(graph.Network(folded(graph.load(tmp_path / "out.onnx")))), wanted), limits)
    assert again == pytest.approx(report["psnr"], abs=0.05)
