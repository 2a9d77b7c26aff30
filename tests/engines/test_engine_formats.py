"""What is stored in few bits is computed with as it is written, by the engines with the options that users get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.storage import Files
from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.format import FORMATS
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision
from aigc_edge.engines.base import ENGINES, INTEGER_FORMATS, EngineSource
from aigc_edge.engines.formats import least_capability
from aigc_edge.errors import BundleError

# int8 and w4a8 have a graph of their own for each engine: tests/compress.
WRITTEN = [name for name in FORMATS if issubclass(FORMATS[name], MixedPrecision) and name not in INTEGER_FORMATS]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", WRITTEN)
def test_engine_computes_what_is_written(tiny_bundle: Path, name: str, engine: str, tmp_path: Path) -> None:
    format = FORMATS[name]
    assert issubclass(format, MixedPrecision)
    reason = ENGINES[engine].unavailable()
    if reason is not None:
        pytest.skip(reason)
    manifest = Bundle.open(tiny_bundle).manifest
    spec, source = manifest.main.onnx, tiny_bundle / manifest.main.file("fp32")
    program = manifest.programs[manifest.default_program]
    calibration = Calibration.draw(spec, program, 4, num_classes=10, seed=3)
    format(psnr=0.0).convert(source, tmp_path / "net.onnx", calibration)
    records: list[Record] = []
    original = graph.Network(source)
    calibration.run(original, records)
    inputs = records[3].inputs
    place = EngineSource(Files(tmp_path), Component(spec, {name: {"file": "net.onnx"}}), name)
    if least_capability(format, ENGINES[engine]) is None:
        with pytest.raises(BundleError, match=f"no CPU kernels for the format {name} of .*: choose the engine openvino"):
            ENGINES[engine].load(place, threads=1)
        return
    loaded = ENGINES[engine].load(place, threads=1)
    made, wanted = loaded.evaluate(inputs)["output"], original(inputs)[0]
    error = np.linalg.norm(made - wanted)
    if name in ("fp16", "bf16", "fp8"):  # activations are rounded, and what sums differ by is magnified
        assert error <= 0.06 * np.linalg.norm(wanted)
        return
    stored = graph.Network(folded(graph.load(tmp_path / "net.onnx")))(inputs)[0]
    assert np.linalg.norm(made - stored) <= 0.02 * error + 1e-5 * np.linalg.norm(wanted)
