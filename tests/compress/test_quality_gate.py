"""A signal that is small within its range, a dark image and 8-bit pixels are held to the same quality as any other result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from aigc_edge.compress.calibration.trajectory import Calibration, psnr
from aigc_edge.compress.evaluation.quality import Requirement, tolerance
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import parse
from aigc_edge.compress.formats.int8 import Int8
from aigc_edge.compress.graphs import graph
from aigc_edge.errors import BudgetError
from aigc_edge.metrics.paired import compare

# scale and offset of the result, and its range: a weak signal, a dark image, pixels
RESULTS = [(1.0, 0.0, (-1.0, 1.0)), (0.5, -0.9, (-1.0, 1.0)), (127.5, 127.5, (0.0, 255.0))]


def _signal(rng: np.random.Generator, make: dict, scale: float, offset: float) -> Any:
    """Two wide layers, then one whose result is nearly constant, of which the last keeps what varies: its deviation is 0.03."""
    pads = {"pads": [0, 4, 0, 4]}
    nodes = [
        helper.make_node("Conv", ["x", "p.weight"], ["p"], **pads),
        helper.make_node("Relu", ["p"], ["pr"]),
        helper.make_node("Conv", ["pr", "q.weight"], ["q"], **pads),
        helper.make_node("Relu", ["q"], ["qr"]),
        helper.make_node("Conv", ["qr", "a.weight", "a.bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Conv", ["ar", "b.weight"], ["b"]),
        helper.make_node("Tanh", ["b"], ["t"]),
        helper.make_node("Mul", ["t", "scale"], ["s"]),
        helper.make_node("Add", ["s", "offset"], ["y"]),
    ]
    last = rng.standard_normal((3, 8, 1, 1))
    last -= last.mean(axis=1, keepdims=True)  # the constant of `a` cancels
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    constants = {
        "p.weight": rng.standard_normal((32, 4, 1, 9)) / 6,
        "q.weight": rng.standard_normal((32, 32, 1, 9)) / 12,
        "a.weight": rng.standard_normal((8, 32, 1, 1)) / 6 * 0.012,
        "a.bias": np.full(8, 5.0),
        "b.weight": 4 * last,
        "scale": np.float32(scale),
        "offset": np.float32(offset),
    }
    return make["decoder"](
        "signal", nodes, {name: np.float32(value) for name, value in constants.items()}, [4, 4, 32], [3, 4, 32]
    )


def _calibration(net: Any, limits: tuple[float, float], n: int = 32) -> Calibration:
    return dataclasses.replace(net.calibration(n), limits=limits)


@pytest.mark.parametrize(("scale", "offset", "limits"), RESULTS)
def test_int8_falls_back_where_psnr_of_the_data_type_would_accept(
    rng: np.random.Generator, make: dict, tmp_path: Path, scale: float, offset: float, limits: tuple[float, float]
) -> None:
    net = _signal(rng, make, scale, offset)
    source, calibration = net.write(tmp_path), _calibration(net, limits)
    wanted = calibration.run(graph.Network(source))
    broken = Int8(psnr=0, aim=0, rank=False).convert(source, tmp_path / "all.onnx", calibration).to_json()
    error = float(np.mean(np.square(calibration.run(graph.Network(tmp_path / "all.onnx")) - wanted)))
    assert psnr(error, limits) > 30, "which the range of the data type accepts"
    assert broken["centred_l2"] > tolerance(30), "although a good part of the signal is lost"
    report = Int8(psnr=30, aim=0, rank=False).convert(source, tmp_path / "out.onnx", calibration).to_json()
    formats = {name: node["format"] for name, node in report["nodes"].items()}
    assert formats["q"] == "int8"
    assert formats["a"] == "fp32"
    assert report["centred_l2"] <= tolerance(30)
    figures = compare(calibration.run(graph.Network(tmp_path / "out.onnx")), wanted)
    assert figures["centred_l2"] == pytest.approx(report["centred_l2"], rel=0.3)
    with pytest.raises(BudgetError, match=r"centred L2 error of .* an error of at most 0\.32 and 30\.0 dB was requested"):
        Int8(psnr=30, min_share=1.0, aim=0).convert(source, tmp_path / "never.onnx", calibration)
    assert not (tmp_path / "never.onnx").exists()


@pytest.mark.parametrize("format", ["int8", "int4", "int8w", "fp16", "sparse24", "pruned:steps=0"])
def test_every_format_has_the_limit(format: str, rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    net = _signal(rng, make, 1.0, 0.0)
    source, calibration = net.write(tmp_path), _calibration(net, (-1.0, 1.0), 16)
    name, _, options = format.partition(":")
    strict = parse(f"{name}:psnr=1,centred_l2=1e-7" + (f",{options}" if options else ""))
    with pytest.raises(BudgetError, match=r"centred L2 error of .* at most 1e-07 and 1\.0 dB was requested"):
        strict.convert(source, tmp_path / "out.onnx", calibration)


@pytest.mark.parametrize(("scale", "offset", "limits"), RESULTS)
def test_the_allowed_error_meets_both_limits(
    rng: np.random.Generator, make: dict, scale: float, offset: float, limits: tuple[float, float]
) -> None:
    net = _signal(rng, make, scale, offset)
    reference = HeldOutReference(net.model, _calibration(net, limits), calibrates=False, threads=1)
    for requirement in (Requirement(30.0), Requirement(12.0), Requirement(20.0, 0.05)):
        allowed = reference.allowed_error(requirement)
        error = rng.standard_normal(reference.samples.shape)
        error *= np.sqrt(allowed / np.mean(error**2))
        figures = compare(reference.samples + error, reference.samples)
        assert figures["psnr"] >= requirement.psnr - 1e-3
        assert figures["centred_l2"] <= requirement.most_centred_l2 * (1 + 1e-3)
        assert min(figures["psnr"] / requirement.psnr, requirement.most_centred_l2 / figures["centred_l2"]) == pytest.approx(
            1, abs=1e-3
        ), "and no stricter one"
    assert reference.allowed_error(Requirement(0.0)) == np.inf
