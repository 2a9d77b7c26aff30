"""Beside a network in int8 a bundle holds others in int8w, which onnxruntime has to run as what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aigc_edge.bundle.component import Component
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.compress.format import parse
from aigc_edge.engines.base import EngineSource, made_as
from aigc_edge.engines.onnxruntime import OnnxRuntimeEngine

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
helper = onnx.helper


class Graph:
    """Nodes and constants of a network sample [N, 16, 4, 4] → output."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.nodes, self.constants = rng, [], []

    def add(self, op: str, *inputs: str, out: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [out or f"t{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape).astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        self.constants.append(onnx.numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def save(self, path: Path) -> None:
        values = [helper.make_tensor_value_info(name, 1, ["N", *([None] * 3)]) for name in ("sample", "output")]
        values[0] = helper.make_tensor_value_info("sample", 1, ["N", 16, 4, 4])
        graph = helper.make_graph(self.nodes, "g", values[:1], values[1:], self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def _pointwise_behind_concat(graph: Graph) -> None:
    both = graph.add("Concat", "sample", graph.add("Tanh", "sample"), graph.add("Neg", "sample"), "sample", axis=1)
    graph.add("Conv", both, graph.weight(12, 64, 1, 1), out="output")


def _pointwise_behind_slice(graph: Graph) -> None:
    bounds = [graph.constant(np.array([value])) for value in (0, 15, 1)]
    graph.add("Conv", graph.add("Slice", "sample", *bounds, bounds[2]), graph.weight(64, 15, 1, 1), out="output")


def _convolutions(graph: Graph) -> None:
    x = graph.add("Relu", graph.add("Conv", "sample", graph.weight(32, 16, 3, 3), graph.weight(32), pads=[1] * 4))
    graph.add("Conv", x, graph.weight(16, 32, 3, 3), pads=[1] * 4, out="output")


def _transposed(graph: Graph) -> None:
    graph.add("ConvTranspose", "sample", graph.weight(16, 16, 2, 2), strides=[2, 2], out="output")


def _matrix_products(graph: Graph) -> None:
    x = graph.add("Reshape", "sample", graph.constant(np.array([-1, 256])))
    x = graph.add("Gemm", x, graph.weight(64, 256), graph.weight(64), transB=1)
    x = graph.add("MatMul", graph.add("Sigmoid", x), graph.weight(64, 48))
    graph.add("Reshape", x, graph.constant(np.array([-1, 3, 4, 4])), out="output")


NETWORKS = [_pointwise_behind_concat, _pointwise_behind_slice, _convolutions, _transposed, _matrix_products]


@pytest.mark.parametrize("fill", NETWORKS)
def test_weight_only_files_of_an_int8_bundle_compute_in_float(
    fill: Callable[[Graph], None], tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the processor has the instructions that let weights stay int8."""
    graph = Graph(rng)
    fill(graph)
    graph.save(tmp_path / "decoder.fp32.onnx")
    parse("int8w:psnr=0").convert(tmp_path / "decoder.fp32.onnx", tmp_path / "decoder.int8w.onnx", None)
    stored = onnx.load(tmp_path / "decoder.int8w.onnx")
    assert any(node.op_type == "DequantizeLinear" for node in stored.graph.node)
    sample = rng.normal(size=(3, 16, 4, 4)).astype(np.float32)
    exact = onnx.reference.ReferenceEvaluator(stored).run(None, {"sample": sample})[0]
    spec = ComponentSpec(
        "decoder",
        (TensorSpec("sample", "sample", "float32", (BATCH, 16, 4, 4)),),
        (TensorSpec("output", "sample", "float32", (BATCH, *exact.shape[1:])),),
    )
    files = {format: {"file": "decoder.int8w.onnx"} for format in ("int8", "int8w")}
    for vnni in (False, True):
        monkeypatch.setattr("aigc_edge.engines.onnxruntime.has_vnni", lambda vnni=vnni: vnni)
        beside, alone = (
            OnnxRuntimeEngine.load(EngineSource(Files(tmp_path), Component(spec, files), format), threads=1).evaluate(
                {"sample": sample}
            )["output"]
            for format in ("int8", "int8w")
        )
        np.testing.assert_array_equal(beside, alone)
        np.testing.assert_allclose(alone, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


def test_the_name_of_a_file_says_its_format() -> None:
    assert made_as("decoder.int8w.onnx", "int8") == "int8w"
    assert made_as("denoiser.int8.openvino.onnx", "int8") == "int8"
    assert made_as("decoder.fp32.onnx", "int8") == "fp32"
    assert made_as("net.onnx", "int8") == "int8"
