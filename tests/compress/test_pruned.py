"""Structured pruning as a format: smaller and as good as it says, within its budget or refused with the most sensitive layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from aigc_edge.compress.calibration.trajectory import Calibration, mean_square, psnr
from aigc_edge.compress.format import parse
from aigc_edge.compress.formats.pruned import Pruned
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.weights import weights_of
from aigc_edge.errors import AigcEdgeError, BudgetError


def test_fine_tuning_wins_back_what_pruning_lost(families: dict[str, Any], tmp_path: Path) -> None:
    source, spec, program, classes = families["diffusion"]
    calibration = Calibration.draw(spec, program, 8, num_classes=classes, seed=1)
    stages: set[str] = set()
    bare = Pruned(psnr=0, steps=0).convert(source, tmp_path / "bare.onnx", calibration).to_json()
    report = (
        Pruned(psnr=0, steps=120)
        .convert(source, tmp_path / "tuned.onnx", calibration, progress=lambda stage, *_: stages.add(stage))
        .to_json()
    )
    assert {"rank channels", "fine-tune"} <= stages
    assert bare["psnr"] == bare["psnr_before"] == report["psnr_before"]
    other = Calibration.draw(spec, program, 8, num_classes=classes, seed=2)
    wanted = other.run(graph.Network(source))
    errors = [psnr(mean_square(other.run(graph.Network(tmp_path / name)), wanted)) for name in ("bare.onnx", "tuned.onnx")]
    assert errors[1] > errors[0] + 2, "dB from noise that neither saw"
    model = onnx.load(tmp_path / "tuned.onnx")
    macs = sum(layer.macs for layer in weights_of(model))
    assert macs == report["macs"] == sum(node["macs"] for node in report["nodes"].values())
    assert macs <= 0.75 * report["macs_before"]
    assert report["share"] == pytest.approx(1 - macs / report["macs_before"])
    for name, group in report["groups"].items():
        layer = next(layer for layer in weights_of(model) if layer.name == name)
        assert graph.initialisers(model)[layer.weight].shape[layer.axis] >= group["kept"] > 0


def test_the_budget_prunes_less(families: dict[str, Any], tmp_path: Path) -> None:
    source, spec, program, classes = families["transformer"]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes, seed=1)
    most = Pruned(psnr=0, steps=0, share=0.4).convert(source, tmp_path / "most.onnx", calibration).to_json()
    least = most["psnr"] + 3
    report = Pruned(psnr=least, steps=0, share=0.4).convert(source, tmp_path / "out.onnx", calibration).to_json()
    assert report["psnr"] >= least
    assert 0 < report["share"] < most["share"]
    with pytest.raises(BudgetError, match=r"99\.0 dB was requested: the most sensitive layers are \S+ \(\d+ % of the error\)"):
        Pruned(psnr=99, steps=0).convert(source, tmp_path / "never.onnx", calibration)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["most.onnx", "out.onnx"]


def test_half_precision(families: dict[str, Any], tmp_path: Path) -> None:
    source, spec, program, classes = families["transformer"]
    calibration = Calibration.draw(spec, program, 4, num_classes=classes, seed=1)
    report = parse("pruned:floats=fp16,steps=3,psnr=0").convert(source, tmp_path / "out.onnx", calibration).to_json()
    model = onnx.load(tmp_path / "out.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    assert onnx.TensorProto.FLOAT not in kinds
    assert report["bytes"] < 0.5 * report["source_bytes"]
    wanted = calibration.run(graph.Network(source))
    made = calibration.run(graph.Network(tmp_path / "out.onnx"))
    assert psnr(mean_square(made, wanted)) == pytest.approx(report["psnr"], abs=2)


def test_what_cannot_be_pruned_is_said(families: dict[str, Any], make: dict, rng: np.random.Generator, tmp_path: Path) -> None:
    source, spec, program, classes = families["transformer"]
    calibration = Calibration.draw(spec, program, 2, num_classes=classes)
    with pytest.raises(AigcEdgeError, match=r"share=0\.9 of the multiply-adds cannot be pruned"):
        Pruned(share=0.9, steps=0).convert(source, tmp_path / "out.onnx", calibration)
    with pytest.raises(AigcEdgeError, match="calibration data of at least 2 samples"):
        Pruned().convert(source, tmp_path / "out.onnx")
    net = make["conv"](rng)
    with pytest.raises(AigcEdgeError, match="no inner channels"):
        Pruned().convert(net.write(tmp_path), tmp_path / "out.onnx", net.calibration(2))
    with pytest.raises(AigcEdgeError, match=r"share is 0\.0: give a value above 0"):
        parse("pruned:share=0")
