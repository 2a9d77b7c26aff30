"""Every format of the registry on every family: converted, run, as good and as small as the format says of itself."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.format import FORMATS, parse
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.emulation import in_float32
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.graphs.weights import weights_of
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision
from aigc_edge.config import names
from aigc_edge.engines.base import ENGINES, INTEGER_FORMATS
from aigc_edge.engines.formats import least_capability

Family = tuple[Path, Any, Any, int]
# Formats that say nothing of themselves: what they reached when they were written.
EXPECTED = {"fp32": (np.inf, 1.0)}
EVERYTHING = [*FORMATS, "nvfp4:activations=fp4"]


def _networks(out: Path, format: type, name: str) -> dict[str, Callable[..., Any]]:
    """The written file as its nodes say, and in an engine that the format names and that is here."""
    model = onnx.load(out)
    found: dict[str, Callable[..., Any]] = {"folded": graph.Network(in_float32(folded(model)), exact=True)}
    engines = [name for name in ENGINES if least_capability(format, ENGINES[name]) is not None]
    if "onnxruntime" in engines:
        found["onnxruntime"] = graph.Network(out, exact=name not in INTEGER_FORMATS)
    elif "openvino" in engines and importlib.util.find_spec("openvino"):
        found["openvino"] = _openvino(out)
    return found


def _openvino(path: Path) -> Callable[..., Any]:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    return lambda inputs: [np.array(compiled(inputs)[0])]


@pytest.mark.parametrize("family", ["diffusion", "gan", "transformer"])
@pytest.mark.parametrize("text", EVERYTHING)
def test_format_on_family(families: dict[str, Family], text: str, family: str, tmp_path: Path) -> None:
    source, spec, program, classes = families[family]
    name = text.partition(":")[0]
    format = FORMATS[name]
    expected_psnr, expected_size = getattr(format, "expected_psnr", None), getattr(format, "expected_size", None)
    if expected_psnr is None:
        expected_psnr, expected_size = EXPECTED[name]
    calibration = Calibration.draw(spec, program, 8, num_classes=classes, seed=1)
    free = {key: value for key, value in (("psnr", 0.0), ("aim", 0.0), ("rank", False), ("steps", 60)) if key in names(format)}
    out = tmp_path / f"{name}.onnx"
    report = replace(parse(text), **free).convert(source, out, calibration).to_json()

    # The file is standard ONNX of the same signature, and the report speaks of it.
    onnx.checker.check_model(out, full_check=True)
    model, original = onnx.load(out), onnx.load(source)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    for side in ("input", "output"):
        assert [(v.name, v.type) for v in getattr(model.graph, side)] == [(v.name, v.type) for v in getattr(original.graph, side)]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["bytes"] == out.stat().st_size
    assert report["source_bytes"] == source.stat().st_size
    if name == "fp32":
        return

    # As good as it says, in the network's own words and measured again.
    assert report["psnr"] is None or report["psnr"] >= expected_psnr
    assert len(report["rows"]) == max(1, len(program.rows))
    records: list[Record] = []
    other = Calibration.draw(spec, program, 3, num_classes=classes, seed=7)
    wanted = other.run(graph.Network(source), records)
    made = {engine: other.run(network) for engine, network in _networks(out, format, name).items()}
    rounds = name in ("bf16", "fp16") or any(node.op_type in ("QuantizeLinear", "Round") for node in model.graph.node)
    for engine, value in made.items():
        psnr = 10 * np.log10(4 / np.mean(np.square(value - wanted)))
        assert psnr >= expected_psnr - 3, engine  # other noise than it was measured on
        # Weights are the same in every engine; activations that are rounded magnify what sums differ by, to all of their error.
        part = 1.7 if rounds else 0.02
        apart = np.linalg.norm(value - made["folded"])
        assert apart <= part * np.linalg.norm(made["folded"] - wanted) + 1e-4 * np.linalg.norm(wanted), engine

    # As small as it says: the weights that it holds, and the file.
    assert expected_size == 1 or report["bytes"] < 0.9 * report["source_bytes"]
    if issubclass(format, MixedPrecision) and name not in INTEGER_FORMATS:  # whose report is of the layers that int8 can hold
        weights = {layer.name: layer.bytes for layer in weights_of(original)}
        assert set(report["nodes"]) == set(weights)
        stored = sum(node["bytes"] for node in report["nodes"].values())
        assert (
            stored <= report["bytes"] <= stored + (report["source_bytes"] - sum(weights.values())) + 600 * len(model.graph.node)
        )


@pytest.mark.parametrize("text", EVERYTHING)
def test_large_layers_are_as_small_as_stated(rng: np.random.Generator, make: dict, text: str, tmp_path: Path) -> None:
    """A convolution of 128 channels and a matrix product of 768: nearly the file that a network of 30 M parameters has."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["a"], strides=[4, 4]),
        helper.make_node("Conv", ["a", "b.weight"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("MatMul", ["c", "c.weight"], ["d"]),
        helper.make_node("MatMul", ["d", "d.weight"], ["y"]),
    ]
    shapes = {"a.weight": (128, 3, 4, 4), "b.weight": (192, 128, 3, 3), "c.weight": (768, 1024), "d.weight": (1024, 4)}
    constants = {key: (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32) for key, shape in shapes.items()}
    net = make["decoder"]("large", nodes, constants | {"shape": np.array([-1, 768])}, [3, 8, 8], [4])
    name = text.partition(":")[0]
    format = FORMATS[name]
    free = {key: value for key, value in (("psnr", 0.0), ("aim", 0.0), ("steps", 20)) if key in names(format)}
    report = replace(parse(text), **free).convert(net.write(tmp_path), tmp_path / "out.onnx", net.calibration(4)).to_json()
    expected = getattr(format, "expected_size", None) or EXPECTED[name][1]
    assert report["bytes"] <= expected * report["source_bytes"] + 8000
