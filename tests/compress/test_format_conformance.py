"""Every format of the registry on every family: converted, run, as good and as small as the format says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from aigc_edge.compress import graph
from aigc_edge.compress.calibration import Calibration, Record
from aigc_edge.compress.folding import folded
from aigc_edge.compress.formats import FORMATS, convert
from aigc_edge.compress.mixture import Mixed
from aigc_edge.compress.weights import weights_of
from aigc_edge.config import names

Family = tuple[Path, Any, Any, int]
# Formats that say nothing of themselves: what they reached when they were written.
EXPECTED = {"fp32": (np.inf, 1.0), "fp16": (45.0, 0.51), "int8": (20.0, 0.27)}


def _float_networks(out: Path, format: type, text: str) -> dict[str, Callable[..., Any]]:
    """The written file in every engine that the format names and that is here, and as its nodes say."""
    model = onnx.load(out)
    found: dict[str, Callable[..., Any]] = {"folded": graph.Network(getattr(format, "runnable", folded)(model), exact=True)}
    engines = getattr(format, "engines", ("onnxruntime",))
    if "onnxruntime" in engines and text not in ("int8", "fp32"):
        found["onnxruntime"] = graph.Network(out, exact=True)
    return found


@pytest.mark.parametrize("family", ["diffusion", "gan", "transformer"])
@pytest.mark.parametrize("name", list(FORMATS))
def test_format_on_family(families: dict[str, Family], name: str, family: str, tmp_path: Path) -> None:
    source, spec, program, classes = families[family]
    format = FORMATS[name]
    expected_psnr, expected_size = getattr(format, "expected_psnr", None), getattr(format, "expected_size", None)
    if not issubclass(format, Mixed):
        expected_psnr, expected_size = EXPECTED[name]
    calibration = Calibration.draw(spec, program, 8, num_classes=classes, seed=1)
    free = {key: value for key, value in (("psnr", 0.0), ("aim", 0.0), ("rank", False)) if key in names(format)}
    out = tmp_path / f"{name}.onnx"
    report = convert(format(**free), source, out, calibration)

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
    held = Calibration.draw(spec, program, 3, num_classes=classes, seed=7)
    wanted = held.run(graph.Network(source), records)
    made = {engine: held.run(network) for engine, network in _float_networks(out, format, name).items()}
    for engine, value in made.items():
        psnr = 10 * np.log10(4 / np.mean(np.square(value - wanted)))
        assert psnr >= expected_psnr - 3, engine  # other noise than it was measured on
        assert np.abs(value - made["folded"]).max() <= 1e-3, engine

    # As small as it says: the weights that it holds, and the file.
    if "nodes" in report:
        nodes = {key: node for key, node in report["nodes"].items() if node["format"] == name}
        weights = {layer.name: layer.bytes for layer in weights_of(original)}
        assert sum(node["bytes"] for node in nodes.values()) <= expected_size * sum(weights[key] for key in nodes) * 1.02
        assert sum(weights[key] for key in nodes) >= 0.8 * sum(weights.values())
    assert expected_size == 1 or report["bytes"] < 0.9 * report["source_bytes"]
