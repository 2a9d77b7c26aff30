"""Weights of few bits when a network is opened: w4a8 as int8, products of 4-bit weights as MatMulNBits; exact, and small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.onnx_file import OnnxFile
from aigc_edge.compress.formats.int4 import Int4
from aigc_edge.compress.graphs.two_level import two_level, written
from aigc_edge.engines import few_bits
from aigc_edge.engines.onnxruntime import open_session
from aigc_edge.errors import BundleError
from tests.compress.conftest import decoder


def _model(nodes: list[Any], constants: dict[str, np.ndarray], sizes: tuple[int, int]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in zip("xy", sizes, strict=True)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _run(model: str | bytes, x: np.ndarray, format: str) -> np.ndarray:
    session = open_session(model, 1, what="net", format=format)
    return np.asarray(session.run(None, {"x": x})[0])


def _two_level(rng: np.random.Generator) -> tuple[onnx.ModelProto, np.ndarray]:
    """y = float(x as int8 · weight), and the weight."""
    units = (127 * rng.uniform(-1, 1, (48, 64))).astype(np.float32)
    weight = two_level(units, 32)
    constants, nodes = written(weight, "w", "w_int8", (64, 48), upright=False)
    constants |= {"scale": rng.uniform(0.01, 0.02, 48).astype(np.float32), "zero": np.zeros(48, np.int8)}
    constants |= {"x_scale": np.array(0.02, np.float32), "x_zero": np.array(128, np.uint8)}
    nodes += [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w_int8", "scale", "zero"], ["w_dq"], axis=1),
        helper.make_node("MatMul", ["x_dq", "w_dq"], ["y"]),
    ]
    return _model(nodes, constants, (64, 48)), weight.integers.T


@pytest.mark.parametrize("place", ["bytes", "file", "disk"])
def test_w4a8_becomes_int8(rng: np.random.Generator, place: str, tmp_path: Path) -> None:
    """The same integers as an oracle in Python's, the same bits as plain onnxruntime, which folds the file's own nodes."""
    model, weight = _two_level(rng)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=64)
    given = onnx.load(tmp_path / "net.onnx").SerializeToString() if place == "bytes" else str(tmp_path / "net.onnx")
    x = rng.standard_normal((5, 64)).astype(np.float32)
    plain = _run(given, x, "w4a8")
    if place == "disk":
        with few_bits.on_disk(given, tmp_path) as changed:
            assert isinstance(changed, str)
            loaded, made = onnx.load(changed), _run(changed, x, "w4a8")
            assert Path(changed).parent.parent == tmp_path
    else:
        changed = few_bits.in_memory(given)
        assert isinstance(changed, bytes)
        loaded, made = onnx.load_from_string(changed), _run(changed, x, "w4a8")
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    onnx.checker.check_model(loaded)
    kinds = {tensor.name: tensor.data_type for tensor in loaded.graph.initializer}
    assert TensorProto.INT4 not in kinds.values()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}["w_int8"]
    np.testing.assert_array_equal(stored, weight)
    np.testing.assert_array_equal(made, plain)
    assert [node.op_type for node in loaded.graph.node] == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]


def test_a_file_is_expanded_ahead(rng: np.random.Generator, tmp_path: Path) -> None:
    model, weight = _two_level(rng)
    onnx.save(model, tmp_path / "net.onnx")
    few_bits.write_expanded(tmp_path / "net.onnx", tmp_path / "out" / "ahead.onnx")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ahead.onnx", "ahead.onnx.data"}
    loaded = onnx.load(tmp_path / "out" / "ahead.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    np.testing.assert_array_equal({t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}["w_int8"], weight)
    x = rng.standard_normal((5, 64)).astype(np.float32)
    ahead = _run(str(tmp_path / "out" / "ahead.onnx"), x, "w4a8")
    np.testing.assert_array_equal(ahead, _run(model.SerializeToString(), x, "w4a8"))
    with pytest.raises(BundleError, match="has no weights in 4 bits that can be expanded"):
        few_bits.write_expanded(tmp_path / "out" / "ahead.onnx", tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_openvino_gets_int8_weights(rng: np.random.Generator, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from aigc_edge.engines.openvino import _expand

    model, weight = _two_level(rng)
    onnx.save(model, tmp_path / "net.onnx")
    network = openvino.Core().read_model(tmp_path / "net.onnx")
    _expand(openvino, network)
    constants = [node for node in network.get_ordered_ops() if node.get_type_name() == "Constant"]
    assert not any(node.get_element_type() == openvino.Type.i4 for node in constants)
    (stored,) = (node.data for node in constants if list(node.get_output_shape(0)) == [2, 32, 48])
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored.reshape(64, 48), weight)


def test_a_weight_beyond_int8_is_refused(rng: np.random.Generator) -> None:
    model, _ = _two_level(rng)
    for tensor in model.graph.initializer:
        if tensor.name == "w_block_scale":
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 60, np.int8), tensor.name))
    with pytest.raises(BundleError, match="w_int4 leaves the range of int8: compile the bundle again"):
        few_bits.in_memory(model.SerializeToString())


def _blocks(rng: np.random.Generator, inputs: int, outputs: int, block: int, upright: bool) -> tuple[dict, Any, np.ndarray]:
    """Constants and the node of a weight in blocks, and its values [inputs, outputs]."""
    codes = rng.integers(-8, 8, (outputs, inputs))
    scales = rng.uniform(0.01, 0.1, (outputs, inputs // block)).astype(np.float32)
    values = (codes * scales.repeat(block, axis=1)).T
    turned = (codes, scales) if upright else (codes.T, scales.T)
    constants = {"w_int4": turned[0].astype(ml_dtypes.int4), "w_scale": np.ascontiguousarray(turned[1])}
    node = helper.make_node("DequantizeLinear", list(constants), ["w"], axis=int(upright), block_size=block)
    return constants, node, values


@pytest.mark.parametrize("block", [16, 64, 128])
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_products_become_matmulnbits(rng: np.random.Generator, block: int, upright: bool, bias: bool) -> None:
    constants, weight, values = _blocks(rng, 256, 40, block, upright)
    constants["b"] = rng.standard_normal(40).astype(np.float32)
    inputs = ["x", "w", *(["b"] if bias else [])]
    gemm = upright or bias
    node = helper.make_node("Gemm", inputs, ["y"], transB=int(upright)) if gemm else helper.make_node("MatMul", inputs, ["y"])
    changed = few_bits.in_memory(_model([weight, node], constants, (256, 40)).SerializeToString())
    assert isinstance(changed, bytes)
    loaded = onnx.load_from_string(changed)
    assert [node.op_type for node in loaded.graph.node] == ["Pad", "MatMulNBits", "Slice", *(["Add"] if bias else [])]
    assert {tensor.data_type for tensor in loaded.graph.initializer} == {TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT64}
    for rows in (1, 7, 64):
        x = rng.standard_normal((rows, 256)).astype(np.float32)
        wanted = x.astype(np.float64) @ values + (constants["b"] if bias else 0)
        # Inputs stay floats: with inputs in 8 bits the error would be a thousand times as large.
        np.testing.assert_allclose(_run(changed, x, "int4"), wanted, atol=2e-5 * np.abs(wanted).max())


OTHERS = {
    "another reader": lambda node: [
        node("MatMul", ["x", "w"], ["p"]),
        node("MatMul", ["p", "wt"], ["y"]),
        node("Transpose", ["w"], ["wt"]),
    ],
    "a factor": lambda node: [node("Gemm", ["x", "w"], ["y"], alpha=0.5)],
    "the first factor": lambda node: [node("MatMul", ["w", "x"], ["y"])],
    "transposed": lambda node: [node("Gemm", ["x", "w"], ["y"], transB=1)],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_uses_of_a_weight_stay(rng: np.random.Generator, name: str) -> None:
    constants, weight, _ = _blocks(rng, 32, 32, 16, upright=False)
    model = _model([weight, *OTHERS[name](helper.make_node)], constants, (32, 32))
    data = model.SerializeToString()
    assert few_bits.in_memory(data) is data
    assert few_bits.rewritten(data[:-3]) is None, "a damaged file is for the engine to refuse"


def _typed(tensor: TensorProto) -> TensorProto:
    """The same constant in a field of its type, not as bytes."""
    kind = np.float32 if tensor.data_type == TensorProto.FLOAT else np.int64
    return helper.make_tensor(
        tensor.name, tensor.data_type, tensor.dims, numpy_helper.to_array(tensor).astype(kind).ravel().tolist()
    )


def _of_shape(tensor: TensorProto, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, numpy_helper.to_array(tensor).dtype), tensor.name)


MISSHAPEN = {
    "codes in typed fields": ("w_int4", _typed),
    "scales in typed fields": ("w_scale", _typed),
    "one scale for all columns": ("w_scale", lambda tensor: _of_shape(tensor, 2, 1)),
    "scales of another rank": ("w_scale", lambda tensor: _of_shape(tensor, 2, 32, 1)),
    "two levels: codes in typed fields": ("w_int4", _typed),
    "two levels: offsets in typed fields": ("w_block_offset", _typed),
    "two levels: scales of another shape": ("w_block_scale", lambda tensor: _of_shape(tensor, 2, 1, 7)),
    "two levels: scales that make the weight larger": ("w_block_scale", lambda tensor: _of_shape(tensor, 5000, 2, 1, 48)),
    "two levels: a negative size": ("w_shape", lambda tensor: numpy_helper.from_array(np.array([-64, -48]), "w_shape")),
}


@pytest.mark.parametrize("name", MISSHAPEN)
def test_constants_in_another_form_are_left_to_onnxruntime(rng: np.random.Generator, name: str) -> None:
    if name.startswith("two levels"):
        model = _two_level(rng)[0]
    else:
        constants, weight, _ = _blocks(rng, 32, 32, 16, upright=False)
        model = _model([weight, helper.make_node("MatMul", ["x", "w"], ["y"])], constants, (32, 32))
    assert few_bits.rewritten(model.SerializeToString()) is not None
    changed, change = MISSHAPEN[name]
    for tensor in model.graph.initializer:
        if tensor.name == changed:
            tensor.CopyFrom(change(tensor))
    data = model.SerializeToString()
    assert few_bits.in_memory(data) is data


def test_int4_as_it_is_converted(rng: np.random.Generator, tmp_path: Path) -> None:
    """The format's own file: products are packed, the convolution and layers in 8 bits are as they were."""
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "b.weight"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("MatMul", ["f", "c.weight"], ["c"]),
        helper.make_node("Gemm", ["c", "d.weight", "d.bias"], ["d"], transB=1),
        helper.make_node("MatMul", ["d", "e.weight"], ["y"]),
    ]
    shapes = {
        "a.weight": (32, 16, 3, 3),
        "b.weight": (16, 32, 3, 3),
        "c.weight": (256, 64),
        "d.weight": (96, 64),
        "e.weight": (96, 32),
    }
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        for name, shape in shapes.items()
    }
    net = decoder("net", nodes, weights | {"d.bias": rng.standard_normal(96).astype(np.float32)}, [16, 4, 4], [32])
    Int4(psnr=0.0).convert(net.write(tmp_path), tmp_path / "int4.onnx", net.calibration())
    path = str(tmp_path / "int4.onnx")
    network = few_bits.rewritten(path)
    assert isinstance(network, OnnxFile)
    ops = [node.op for node in network.nodes]
    assert ops.count("MatMulNBits") == 2, "the first and the last layer are in 8 bits"
    x = rng.standard_normal((3, 16, 4, 4)).astype(np.float32)
    plain = _run(path, x, "int4")
    np.testing.assert_allclose(_run(network.serialised(), x, "int4"), plain, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lead", [(), (1,), (3,)])
def test_a_sample_does_not_depend_on_the_batch(
    rng: np.random.Generator, tmp_path: Path, lead: tuple[int, ...], threads: int
) -> None:
    """Bit for bit, in products of [N, K] and [N, T, K]: onnxruntime has another kernel for a single row."""
    codes, scales = rng.integers(-8, 8, (256, 96)), rng.uniform(0.001, 0.01, (4, 96)).astype(np.float32)
    constants = {"c": codes.astype(ml_dtypes.int4), "s": scales}
    nodes = [helper.make_node("DequantizeLinear", ["c", "s"], ["w"], axis=0, block_size=64)]
    nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    model = _model(nodes, constants, (256, 96))
    for value, size in ((model.graph.input[0], 256), (model.graph.output[0], 96)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["N", *lead, size]))
    network = few_bits.rewritten(model.SerializeToString())
    assert isinstance(network, OnnxFile)
    session = open_session(network.serialised(), threads, what="net", format="int4")
    x = rng.standard_normal((9, *lead, 256)).astype(np.float32)
    (whole,) = session.run(None, {"x": x})
    exact = x.astype(np.float64) @ (codes * np.repeat(scales, 64, axis=0).astype(np.float64))
    np.testing.assert_allclose(whole, exact, atol=1e-5 * np.abs(exact).max())
    for count in (1, 2, 5):
        np.testing.assert_array_equal(session.run(None, {"x": x[:count]})[0], whole[:count])


CHILD = """
import contextlib, json, pathlib, sys
import numpy as np
from aigc_edge.engines import few_bits
from aigc_edge.engines.onnxruntime import open_session
model, format, width = sys.argv[1:]
folder = pathlib.Path(model).parent
with few_bits.on_disk(model, folder) if format == "int4" else contextlib.nullcontext(model) as given:
    session = open_session(given, 1, what="net", format=format)
result = session.run(None, {"x": np.ones((2, int(width)), np.float32)})[0]
lines = open("/proc/self/status").read().splitlines()
print(json.dumps([1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_int4_takes_less_memory_than_fp32(rng: np.random.Generator, tmp_path: Path) -> None:
    """Peak of a process that opens and evaluates 16 M weights: 64 MB as floats, 9 MB in 4 bits.

    Peaks were 31 to 50 MB apart, as pages of the mapped floats are released early or late; floats would make it 0 or less.
    """
    width, layers = 2048, 4
    codes = rng.integers(-7, 8, (width, width))
    scales = np.full((width // 64, width), 0.005, np.float32)
    nodes: dict[str, list[Any]] = {"fp32": [], "int4": []}
    constants: dict[str, dict[str, np.ndarray]] = {"fp32": {}, "int4": {}}
    for index in range(layers):
        ends = ["x" if index == 0 else f"t{index}", "y" if index == layers - 1 else f"t{index + 1}"]
        constants["fp32"][f"w{index}"] = (codes * np.float32(0.005)).astype(np.float32)
        constants["int4"] |= {f"c{index}": codes.astype(ml_dtypes.int4), f"s{index}": scales}
        weight = helper.make_node("DequantizeLinear", [f"c{index}", f"s{index}"], [f"w{index}"], axis=0, block_size=64)
        nodes["int4"].append(weight)
        for part in nodes.values():
            part.append(helper.make_node("MatMul", [ends[0], f"w{index}"], [ends[1]]))
    peak = {}
    for format in nodes:
        path = tmp_path / f"{format}.onnx"
        onnx.save(
            _model(nodes[format], constants[format], (width, width)), path, save_as_external_data=True, location=f"{format}.data"
        )
        ran = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), format, str(width)], capture_output=True, text=True, check=True
        )
        (peak[format],) = json.loads(ran.stdout.splitlines()[-1])
    assert peak["int4"] < peak["fp32"] - 0.25 * 4 * layers * width**2
