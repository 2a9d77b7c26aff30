"""NVFP4 activations: the arithmetic that CPUs run is exactly that of the Q/DQ nodes, and mixed precision holds budgets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import parse
from aigc_edge.compress.formats.nvfp4 import Nvfp4
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.dynamic_fp4 import as_arithmetic, dynamic_input, tensor_scale
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.errors import AigcEdgeError

SHAPES = {2: (7, 48), 3: (5, 6, 64), 4: (2, 3, 4, 16)}
TIES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def nvfp4(x: np.ndarray, scale: float, nudge: float = 0.0, scale_nudge: float = 0.0) -> np.ndarray:
    """What NVFP4 holds of float64 values [..., 16 n], by the casts of another library; nudges move what 4 and 8 bits round."""
    blocks = x.astype(np.float64).reshape(-1, 16)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scales = np.minimum(largest / (6 * scale) * (1 + scale_nudge), 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale
    ratios = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    ratios *= 1 + nudge
    return (np.clip(ratios, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float64) * scales).reshape(x.shape)


def _few_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many significant bits: quotients of such numbers are ties, or far from them in float32 too."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2**bits), exponent - bits)


def _values(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Blocks from far below what a scale can hold to far above what was calibrated, zeros, and blocks of ties."""
    blocks = rng.standard_normal((int(np.prod(shape)) // 16, 16)) * np.exp2(rng.uniform(-22, 3, (int(np.prod(shape)) // 16, 1)))
    blocks *= 2688 * scale
    blocks[rng.integers(len(blocks))] = 0
    chosen = rng.permutation(len(blocks))[: len(blocks) // 3]
    for index in chosen:
        step = _few_bits(np.exp2(rng.uniform(-4, 8)), 4) * scale  # E4M3 holds it, so six times it is the largest value
        blocks[index] = rng.choice(TIES, 16) * rng.choice([-1, 1], 16) * step
        blocks[index, rng.integers(16)] = 6 * step
    return _few_bits(blocks, 11).reshape(shape).astype(np.float32)


def _model(shape: tuple[int, ...], scale: np.float32) -> onnx.ModelProto:
    change = dynamic_input("x", scale, len(shape), shape[-1])
    sizes = ["N", *shape[1:]]
    nodes = [*change.before, helper.make_node("Identity", [change.inputs[0]], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "xy"]
    made = helper.make_graph(nodes, "net", values[:1], values[1:], list(change.tensors))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    return model


def _openvino(model: onnx.ModelProto) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    return lambda inputs: [np.array(compiled(inputs)[0])]


@pytest.mark.parametrize("rank", list(SHAPES))
def test_ties_go_to_even(rng: np.random.Generator, rank: int) -> None:
    """With a scale of few bits all quotients are exact in float32: every element is the one of the independent model."""
    shape, scale = SHAPES[rank], np.float32(_few_bits(np.exp2(rng.uniform(-12, 4)), 5))
    model = as_arithmetic(_model(shape, scale))
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    network = graph.Network(model, exact=True)
    for _ in range(4):
        x = _values(rng, shape, float(scale))
        np.testing.assert_array_equal(network({"x": x})[0].astype(np.float64), nvfp4(x, float(scale)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_round_alike(rng: np.random.Generator, engine: str) -> None:
    """With scales as they are written: no scale of a block and no value differs that is not next to a tie."""
    for shape in SHAPES.values():
        scale = tensor_scale(float(np.exp2(rng.uniform(-4, 12))))
        model = as_arithmetic(_model(shape, scale))
        network = _openvino(model) if engine == "openvino" else graph.Network(model, exact=True)
        x = _values(rng, shape, float(scale))
        made = network({"x": x})[0].astype(np.float64)
        sides = np.array([nvfp4(x, float(scale), *nudges) for nudges in itertools.product((1e-6, -1e-6), repeat=2)])
        settled = (sides == sides[0]).all(axis=0)
        assert settled.mean() > 0.5
        np.testing.assert_allclose(made[settled], sides[0][settled], rtol=1e-6)
        assert (np.abs(made - sides) <= 1e-6 * np.abs(sides)).any(axis=0).all()
        assert settled.mean() > 0.5


def test_what_is_too_large_or_small_for_scales() -> None:
    scale = np.float32(0.5)
    network = graph.Network(as_arithmetic(_model((1, 64), scale)), exact=True)
    x = np.zeros((1, 4, 16), np.float32)
    x[0, 0, :3] = 3000, 1000, -100  # 448 is the largest scale: 6 · 448 · 0.5 is the largest value
    x[0, 1, :2] = 3 * 2.0**-10, -(2.0**-10)  # a scale of 2⁻¹⁰, in the middle between 0 and 2⁻⁹
    x[0, 2, :2] = 9 * 2.0**-10, -(2.0**-11)  # of 1.5 · 2⁻⁹, in the middle between that and its double: the values' is 2⁻⁹
    x[0, 3] = 6, *TIES, *-TIES, 0.75
    made = network({"x": x.reshape(1, 64)})[0].reshape(4, 16)
    np.testing.assert_array_equal(made[0, :3], [1344, 896, -112])
    np.testing.assert_array_equal(made[1], np.zeros(16))
    np.testing.assert_array_equal(made[2, :2], [2.0**-7, 0])
    np.testing.assert_array_equal(made[3], [6, 0, 1, 1, 2, 2, 4, 4, 0, -1, -1, -2, -2, -4, -4, 1])
    assert tensor_scale(448.0) == np.float32(1 / 6)
    assert tensor_scale(0.0) > 0


def test_both_graphs_are_the_same_arithmetic(families: dict[str, Any], tmp_path: Path) -> None:
    """What TensorRT gets has Q/DQ nodes, what CPUs get has none of E2M1 for activations; written as arithmetic they are one."""
    source, spec, program, classes = families["transformer"]
    calibration, made = Calibration.draw(spec, program, 4, num_classes=classes), {}
    for engine in ("onnxruntime", "tensorrt"):
        out = tmp_path / f"{engine}.onnx"
        report = parse(f"nvfp4:psnr=0,activations=fp4,floats=fp32,engine={engine}").convert(source, out, calibration).to_json()
        made[engine] = onnx.load(out)
        assert [node["format"] for node in report["nodes"].values()].count("w4a4") == 8
        ranges = set(report["ranges"])
    assert not _quantisers(made["onnxruntime"])
    assert {node.input[0] for node in _quantisers(made["tensorrt"])} == ranges
    assert len(ranges) == 8
    assert as_arithmetic(made["tensorrt"]).graph.node == made["onnxruntime"].graph.node
    assert as_arithmetic(made["onnxruntime"]) is made["onnxruntime"]


def _quantisers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if any(item.name == "output_dtype" for item in node.attribute)]


def _products(rng: np.random.Generator, make: dict, width: int = 64) -> Any:
    """Four products of one size; what the third reads has one value a block that is far larger than all others."""
    weights = {f"{name}.weight": (rng.standard_normal((width, width)) / 8).astype(np.float32) for name in "abcd"}
    weights["size"] = np.where(np.arange(width) % 16 == 0, 30, 1).astype(np.float32)
    weights["c.weight"][::16] *= 1e-3
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
        helper.make_node("MatMul", ["a", "b.weight"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["s"]),
        helper.make_node("Mul", ["s", "size"], ["t"]),
        helper.make_node("MatMul", ["t", "c.weight"], ["c"]),
        helper.make_node("MatMul", ["c", "d.weight"], ["y"]),
    ]
    return make["decoder"]("products", nodes, weights, [4, width], [4, width])


def test_a_budget_lets_the_most_sensitive_layer_fall_back(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    net, out = _products(rng, make), tmp_path / "out.onnx"
    source, calibration = net.write(tmp_path), net.calibration(16)
    free = parse("nvfp4:psnr=0,scaled=false,rank=true,activations=fp4").convert(source, out, calibration).to_json()
    kinds = {name: node["format"] for name, node in free["nodes"].items()}
    assert kinds == {"a": "fp8w", "b": "w4a4", "c": "w4a4", "d": "fp8w"}  # the first and the last stay finer
    assert max(free["nodes"], key=lambda name: free["nodes"][name]["error"]) == "c"
    held = parse(f"nvfp4:psnr={free['psnr'] + 1},scaled=false,activations=fp4").convert(source, out, calibration).to_json()
    assert {name: node["format"] for name, node in held["nodes"].items()} == kinds | {"c": "fp32"}
    assert held["psnr"] >= held["budget_psnr"] > held["all_psnr"]
    text = f"nvfp4:psnr={free['psnr'] + 1},scaled=false,activations=fp4,engine=tensorrt"
    held = parse(text).convert(source, out, calibration).to_json()
    assert {name: node["format"] for name, node in held["nodes"].items()} == kinds | {"c": "fp16"}
    stored = {
        tensor.name.partition(".")[0]: tensor.data_type for tensor in onnx.load(out).graph.initializer if ".weight" in tensor.name
    }
    assert stored["c"] == TensorProto.FLOAT16  # what went back is as the rest of the network


def test_scaling_sees_what_activations_lose(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """Outliers of a channel move into its weights: the search knows of the activations that they would have rounded away."""
    net, out = _products(rng, make), tmp_path / "out.onnx"
    source, errors = net.write(tmp_path), {}
    x = rng.standard_normal((64, 4, 64)).astype(np.float32)
    wanted = graph.Network(net.model)({"x": x})[0]
    for scaled in (True, False):
        parse(f"nvfp4:psnr=0,scaled={scaled},activations=fp4").convert(source, out, net.calibration(64))
        errors[scaled] = np.linalg.norm(graph.Network(folded(onnx.load(out)))({"x": x})[0] - wanted)
    assert errors[True] < 0.9 * errors[False]


def test_what_waits_for_its_weights_reads_floats(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """Vectors stay as they are, the same vectors as rows of tokens do not; weights have 4 bits in either case."""
    kinds = {}
    for form, split in (("vectors", []), ("tokens", [helper.make_node("Reshape", ["b", "rows"], ["t"])])):
        weights = {f"{name}.weight": (rng.standard_normal((64, 64)) / 8).astype(np.float32) for name in "abcd"}
        nodes = [
            helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
            helper.make_node("Gemm", ["a", "b.weight"], ["b"]),
            *split,
            helper.make_node("Gemm", ["t" if split else "b", "c.weight"], ["c"], transB=1),
            *([helper.make_node("Reshape", ["c", "back"], ["u"])] if split else []),
            helper.make_node("MatMul", ["u" if split else "c", "d.weight"], ["y"]),
        ]
        shapes = {"rows": np.array([-1, 64]), "back": np.array([-1, 4, 64])} if split else {}
        size = [4, 64] if split else [64]
        if split:
            nodes[1] = helper.make_node("MatMul", ["a", "b.weight"], ["b"])
        net = make["decoder"](form, nodes, weights | shapes, size, size)
        out = tmp_path / "out.onnx"
        report = parse("nvfp4:psnr=0,activations=fp4").convert(net.write(tmp_path), out, net.calibration(4)).to_json()
        kinds[form] = [node["format"] for node in report["nodes"].values()]
    assert kinds == {"vectors": ["fp8w", "nvfp4", "nvfp4", "fp8w"], "tokens": ["fp8w", "w4a4", "w4a4", "fp8w"]}


def test_what_is_not_given_or_allowed(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    net = _products(rng, make)
    assert parse("nvfp4:activations=fp4") == Nvfp4(activations="fp4")
    with pytest.raises(AigcEdgeError, match="activations is 'int8': choose one of float, fp4"):
        parse("nvfp4:activations=int8")
    with pytest.raises(AigcEdgeError, match="nvfp4 needs calibration data"):
        parse("nvfp4:scaled=false,activations=fp4").convert(net.write(tmp_path), tmp_path / "out.onnx")
