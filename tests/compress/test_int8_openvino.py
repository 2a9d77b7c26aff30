"""The form of int8 that OpenVINO gets: exact in NumPy, the same in OpenVINO itself, good enough on a trained network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.format import parse
from aigc_edge.compress.formats.int8 import Int8
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.activation_matmuls import ACTIVATION_MATMUL, activation_matmuls
from aigc_edge.compress.graphs.qdq import QdqWriter, factors, integers_only, observed
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES, QdqScheme
from aigc_edge.compress.recipes.recipe import LayerEvaluator
from aigc_edge.engines.base import EngineSource, require

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def _attention(rng: np.random.Generator, make: dict) -> Any:
    """x [N, 6, 8] → softmax(q kᵀ) v with q, k and v linear in x."""
    nodes = [helper.make_node("MatMul", ["x", f"{part}.weight"], [part]) for part in "qkv"]
    nodes += [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    weights = {f"{part}.weight": rng.standard_normal((8, 8)).astype(np.float32) * np.float32(0.4) for part in "qkv"}
    return make["decoder"]("attention", nodes, weights, [6, 8], [6, 8])


def test_attention_against_numpy(rng: np.random.Generator, make: dict) -> None:
    """Both products take integers: q, k and v around zero in int8, probabilities from zero in uint8."""
    net = _attention(rng, make)
    found = activation_matmuls(net.model)
    assert [(layer.op, layer.input, layer.weight, layer.macs, layer.bytes) for layer in found] == [
        (ACTIVATION_MATMUL, "q", "kt", 6 * 6 * 8, 0),
        (ACTIVATION_MATMUL, "p", "v", 6 * 6 * 8, 0),
    ]
    assert observed(net.model, found) == factors(net.model, found) == {"q", "k", "p", "v"}
    scales = {name: (np.float32(rng.uniform(0.02, 0.04)), 0) for name in "qkv"} | {"p": (np.float32(1 / 255), 0)}
    model = QdqWriter(net.model, scales, QdqScheme(early=True), signed="qkv").write(found)
    onnx.checker.check_model(model, full_check=True)
    x = rng.standard_normal((3, 6, 8)).astype(np.float32)
    weights = graph.initialisers(net.model)

    def fake(values: np.ndarray, name: str) -> np.ndarray:
        low, high = (0, 255) if name == "p" else (-128, 127)
        return np.clip(np.rint(values.astype(np.float32) / scales[name][0]), low, high) * scales[name][0]

    q, k, v = (fake(x @ weights[f"{part}.weight"], part) for part in "qkv")
    scores = np.exp(q @ k.transpose(0, 2, 1))
    wanted = fake(scores / scores.sum(-1, keepdims=True), "p") @ v
    made = graph.Network(model, exact=True)({"x": x})[0]
    # A float32 sum at the edge of a step may fall to either side of it.
    assert np.mean(np.abs(made - wanted) > 1e-5) < 0.2
    assert np.abs(made - wanted).max() <= 2 * np.abs(v).max() / 255 + 6 * scales["v"][0]


def test_quantised_before_it_is_moved(rng: np.random.Generator, make: dict) -> None:
    """Early or late, the same integers: upsampling and transposing do not change a value."""
    for net in (make["chain"](rng), _attention(rng, make)):
        layers = [*graph.layers(net.model), *activation_matmuls(net.model)]
        moves = integers_only(net.model, layers)
        assert moves == ({"u"} if net.name == "chain" else {"kt"})
        x = rng.standard_normal((4, *[int(n) for n in net.spec.inputs[0].shape[1:]])).astype(np.float32)
        scales = {name: (np.float32(0.03), 0) for name in observed(net.model, layers)}
        early, late = (
            QdqWriter(net.model, scales, QdqScheme(symmetric=True, early=early)).write(layers) for early in (True, False)
        )
        made, wanted = (graph.Network(model, exact=True)({"x": x})[0] for model in (early, late))
        np.testing.assert_array_equal(made, wanted)
        sources = {node.input[0] for node in early.graph.node if node.op_type == "QuantizeLinear"}
        assert not moves & sources


def test_what_floats_read_too_is_quantised_late(rng: np.random.Generator, make: dict) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["a"]),
        helper.make_node("Add", ["a", "t"], ["y"]),
    ]
    net = make["decoder"]("both", nodes, {"w": rng.standard_normal((5, 5)).astype(np.float32)}, [5, 4], [4, 5])
    assert integers_only(net.model, graph.layers(net.model)) == set()


def _engine(path: Path, spec: ComponentSpec) -> Any:
    source = EngineSource(Files(path.parent), Component(spec, {"int8": {"file": "none", "openvino": path.name}}), "int8")
    return require("openvino").load(source, threads=1)


def _trained(bundle: Path, n: int, seed: int) -> tuple[Path, Calibration]:
    """The small trained network of the repository and noise for its program."""
    manifest = Bundle.open(bundle).manifest
    program = manifest.programs[manifest.default_program]
    return bundle / "denoiser.fp32.onnx", Calibration.draw(manifest.main.onnx, program, n, num_classes=10, seed=seed)


@needs_openvino
def test_openvino_computes_what_was_measured(rng: np.random.Generator, tiny_bundle: Path, tmp_path: Path) -> None:
    """The graph in OpenVINO against the graph as it is written; also: the engine takes the file made for it."""
    source, calibration = _trained(tiny_bundle, 8, 1)
    out = tmp_path / "int8.onnx"
    parse("int8:engine=openvino,psnr=0,aim=0,rank=false").convert(source, out, calibration)
    original, written, engine = graph.Network(source), graph.Network(out, exact=True), _engine(out, calibration.spec)
    records: list[Record] = []
    _trained(tiny_bundle, 4, int(rng.integers(2**31)))[1].run(original, records)
    name = calibration.spec.outputs[0].name
    for record in records[::3]:
        plain, wanted = original(record.inputs)[0], written(record.inputs)[0]
        error = np.linalg.norm(wanted - plain)
        assert error > 0
        made = engine.evaluate(record.inputs)[name]
        assert np.linalg.norm(made - wanted) <= error  # values at the edge of a step fall to either side
        assert np.linalg.norm(made - plain) <= 1.3 * error


@needs_openvino
def test_openvino_runs_it_in_int8(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    import openvino

    net = make["unet"](rng)
    out = tmp_path / "int8.onnx"
    parse("int8:engine=openvino,psnr=0,aim=0,rank=false").convert(net.write(tmp_path), out, net.calibration(4))
    compiled = openvino.Core().compile_model(str(out), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = ("Convolution", "FullyConnected")
    precisions = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision", "originalLayersNames")}
        if facts["layerType"] in kinds and "means of groups" not in facts["originalLayersNames"]:
            norms = any(part in facts["originalLayersNames"] for part in ("_mean_Conv", "_square_Conv"))
            precisions += [] if norms else [facts["runtimePrecision"]]
    assert len(precisions) >= 12
    assert set(precisions) <= {"u8", "i8"}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_trained_network(tiny_bundle: Path, engine: str, tmp_path: Path) -> None:
    """PSNR of final samples from fresh noise, in the graph that is written, of the small trained network of the repository."""
    source, given = _trained(tiny_bundle, 16, 1)
    out = tmp_path / "int8.onnx"
    report = parse(f"int8:engine={engine},psnr=27,aim=0,rank=false").convert(source, out, given).to_json()
    _, fresh = _trained(tiny_bundle, 12, 1 << 32)
    exact = SCHEMES[engine].exact
    made, wanted = (fresh.run(graph.Network(path, exact=exact)) for path in (out, source))
    assert report["psnr"] >= 27
    assert 10 * np.log10(4 / np.mean((made - wanted) ** 2)) >= 26  # of other noise than it was chosen by
    assert report["bytes"] < 0.45 * report["source_bytes"]


def test_single_evaluations_rank_as_trajectories_do(rng: np.random.Generator, make: dict) -> None:
    """The layers that err most alone, by either measure."""
    net = make["unet"](rng)
    recipe = make["int8_recipe"](net, "openvino", 8)
    recipe.calibrate("mse")
    evaluator = LayerEvaluator(recipe, recipe.reference)
    whole = np.array([evaluator.sample_error([layer]) for layer in recipe.layers])
    once = np.array([recipe.single_error(evaluator.network([layer])) for layer in recipe.layers])
    order = np.argsort(np.argsort(whole)), np.argsort(np.argsort(once))
    assert np.corrcoef(*order)[0, 1] > 0.5


def test_what_is_computed_from_weights_alone_is_a_constant(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """StyleGAN's demodulation reads the squares of the weights, which must not keep them in float."""
    nodes = [
        helper.make_node("Mul", ["w", "w"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axes"], ["sums"], keepdims=0),
        helper.make_node("Sqrt", ["sums"], ["sizes"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "sizes"], ["y"]),
    ]
    constants = {"w": rng.standard_normal((64, 64)).astype(np.float32), "axes": np.array([0])}
    net = make["decoder"]("demodulated", nodes, constants, [64], [64])
    whole = Int8(psnr=0, aim=0, rank=False, estimator="minmax")  # the others judge by samples, which are clamped
    report = whole.convert(net.write(tmp_path), tmp_path / "int8.onnx", net.calibration(64)).to_json()
    assert report["bytes"] < 0.4 * report["source_bytes"]
    x = rng.uniform(-2, 2, (8, 64)).astype(np.float32)  # within the range that was seen
    made, wanted = (graph.Network(tmp_path / f"{name}.onnx")({"x": x})[0] for name in ("int8", "demodulated"))
    assert np.linalg.norm(made - wanted) < 0.03 * np.linalg.norm(wanted)
