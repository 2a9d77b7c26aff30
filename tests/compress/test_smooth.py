"""SmoothQuant leaves the network as it is and makes int8 of one with outlier channels better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.compress.formats.int8 import Int8
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.scaling.smooth import largest_inputs, smoothed


@pytest.fixture
def net(rng: np.random.Generator, make: dict) -> Any:
    """Two products (Gemm, transposed, and MatMul) that read one tensor with two large channels, and one that reads their sum."""
    size = rng.uniform(0.5, 1.5, 32).astype(np.float32)
    size[[3, 17]] *= 100
    nodes = [
        helper.make_node("Mul", ["x", "size"], ["a"]),
        helper.make_node("Gemm", ["a", "one.weight", "one.bias"], ["b"], transB=1),
        helper.make_node("MatMul", ["a", "two.weight"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("MatMul", ["d", "three.weight"], ["y"]),
    ]
    weights = {name: rng.standard_normal((32, 32)).astype(np.float32) * np.float32(0.1) for name in ("one", "two", "three")}
    weights["one"][:, [3, 17]] /= 100
    weights["two"][[3, 17]] /= 100
    constants = {f"{name}.weight": value for name, value in weights.items()}
    constants |= {"size": size, "one.bias": rng.standard_normal(32).astype(np.float32) * np.float32(0.1)}
    return make["decoder"]("outliers", nodes, constants, [32], [32])


def test_the_network_stays_the_same(rng: np.random.Generator, net: Any) -> None:
    layers = graph.layers(net.model)
    sizes = largest_inputs(net.model, layers, net.calibration(8), 1)
    assert set(sizes) == {"a", "d"}
    assert sorted(np.argsort(sizes["a"])[-2:]) == [3, 17]
    made = smoothed(net.model, layers, sizes, 0.5)
    onnx.checker.check_model(made, full_check=True)
    x = rng.standard_normal((6, 32)).astype(np.float32)
    before, after = (graph.Network(model)({"x": x})[0] for model in (net.model, made))
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    # By the paper's formula, up to one factor a tensor (which quantisation does not see).
    weights = graph.initialisers(net.model)
    w = np.maximum(np.abs(weights["one.weight"]).max(0), np.abs(weights["two.weight"]).max(1))
    wanted = np.sqrt(w / sizes["a"])
    ratio = graph.initialisers(made)["a_smoothing"] / wanted
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", "openvino"])
def test_outliers_cost_less(net: Any, engine: str, tmp_path: Path) -> None:
    source, calibration = net.write(tmp_path), net.calibration(64)
    plain, better = (
        Int8(engine=engine, psnr=0, aim=0, rank=False, estimator="minmax", smooth=smooth)
        .convert(
            source,
            tmp_path / "int8.onnx",
            calibration,
        )
        .to_json()["psnr"]
        for smooth in (0.0, 0.5)
    )
    assert better > plain + 3
