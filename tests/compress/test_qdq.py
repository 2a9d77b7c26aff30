"""The quantised graph against an independent simulation in NumPy, bit for bit where the arithmetic allows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Network
from aigc_edge.compress.graphs.qdq import QdqWriter, observed, quantise_weight
from aigc_edge.compress.graphs.qdq_scheme import QdqScheme
from aigc_edge.compress.rounding import Scale, scale_of


def _fake(values: np.ndarray, scale: Scale, symmetric: bool) -> np.ndarray:
    """Quantise and dequantise in float32, as ONNX defines it: round half to even, then saturate."""
    low, high = (-128, 127) if symmetric else (0, 255)
    integers = np.clip(np.rint(values.astype(np.float32) / scale[0]) + scale[1], low, high)
    return ((integers - scale[1]) * scale[0]).astype(np.float32)


def _fake_weight(weight: np.ndarray, axis: int) -> np.ndarray:
    rows = np.moveaxis(weight, axis, 0)
    made = [np.clip(np.rint(row / (np.abs(row).max() / np.float32(127))), -127, 127) * np.abs(row).max() / 127.0 for row in rows]
    return np.moveaxis(np.array(made), 0, axis)


def _conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.einsum("nchwij,ocij->nohw", sliding_window_view(padded, (3, 3), axis=(2, 3)), weight) + bias[:, None, None]


def _scales(model: onnx.ModelProto, values: dict[str, np.ndarray], symmetric: bool) -> dict[str, Scale]:
    names = observed(model, graph.layers(model))
    assert names <= values.keys()
    return {name: scale_of(min(values[name].min(), 0), max(values[name].max(), 0), symmetric) for name in names}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_convolution(rng: np.random.Generator, make: dict, symmetric: bool, fused: bool) -> None:
    net = make["conv"](rng)
    constants = graph.initialisers(net.model)
    weight, bias = constants["conv.weight"], constants["conv.bias"]
    x = rng.standard_normal((4, 3, 6, 7)).astype(np.float32)
    scales = _scales(net.model, {"x": x, "y": _conv(x, weight, bias)}, symmetric)
    model = QdqWriter(net.model, scales, QdqScheme(symmetric=symmetric, fused=fused)).write(graph.layers(net.model))
    onnx.checker.check_model(model, full_check=True)

    inner = _conv(_fake(x, scales["x"], symmetric), _fake_weight(weight, 0), bias)
    wanted = _fake(inner, scales["y"], symmetric) if fused else inner
    made = Network(model, exact=True)({"x": x})[0]
    if not fused:
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
        return
    step = float(scales["y"][0])
    kernel = Network(model)({"x": x})[0]  # integer arithmetic: the bias is rounded to int32, ties may fall elsewhere
    for result in (made, kernel):
        assert np.abs(result - wanted).max() <= step * 1.001
        assert np.mean(np.abs(result - wanted) > step / 2) < 0.01


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_matrix_products(rng: np.random.Generator, make: dict, symmetric: bool, fused: bool) -> None:
    net = make["products"](rng)
    c = {name: value.astype(np.float64) for name, value in graph.initialisers(net.model).items()}
    x = rng.standard_normal((16, 8)).astype(np.float32)
    a = x @ c["a.weight"].T + c["a.bias"]
    r = np.maximum(a, 0)
    b = r @ c["b.weight"]
    scales = _scales(net.model, {"x": x, "a": a, "r": r, "b": b, "y": b @ c["c.weight"]}, symmetric)
    model = QdqWriter(net.model, scales, QdqScheme(symmetric=symmetric, fused=fused)).write(graph.layers(net.model))
    onnx.checker.check_model(model, full_check=True)
    f = {name: _fake_weight(c[f"{name}.weight"].astype(np.float32), axis) for name, axis in (("a", 0), ("b", 1), ("c", 1))}
    bias = c["a.bias"]
    if fused:  # in int32, in units of input scale times weight scale
        unit = float(scales["x"][0]) * np.abs(c["a.weight"]).max(1) / 127
        bias = np.rint(bias / unit) * unit
    r = np.maximum(_fake(x, scales["x"], symmetric) @ f["a"].T + bias, 0)
    b = _fake(r, scales["r"], symmetric) @ f["b"]
    wanted = _fake(b, scales["b"], symmetric) @ f["c"]
    # A float32 sum between two integers may fall to either side: one step of an inner tensor, times the weights behind.
    edge = float(scales["b"][0]) * np.abs(f["c"]).sum(0) + float(scales["r"][0]) * (np.abs(f["b"]) @ np.abs(f["c"])).max(0)
    for exact in (True, False):
        made = Network(model, exact=exact)({"x": x})[0]
        assert (np.abs(made - wanted) <= edge + 1e-5).all()
        rows = (np.abs(made - wanted) > 1e-4 * np.abs(wanted).max()).any(1)
        assert rows.sum() <= 2  # of 16


def test_scales_are_exact_and_weights_are_int8(rng: np.random.Generator) -> None:
    weight = (rng.standard_normal((6, 4, 3, 3)) * np.exp(rng.normal(0, 3, (6, 1, 1, 1)))).astype(np.float32)
    integers, scale = quantise_weight(weight, 0)
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(scale, np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127))
    assert (np.abs(integers).max(axis=(1, 2, 3)) == 127).all()
    assert (np.abs(integers * scale[:, None, None, None] - weight) <= scale[:, None, None, None] * 0.5001).all()
    turned, same = quantise_weight(np.moveaxis(weight, 0, 1), 1)
    np.testing.assert_array_equal(turned, np.moveaxis(integers, 0, 1))
    np.testing.assert_array_equal(same, scale)


def test_channels_without_weight_keep_their_bias(rng: np.random.Generator, make: dict) -> None:
    """A channel of zeros, or of tiny weights, beside a bias: an int32 bias in units of its scale would overflow."""
    net = make["conv"](rng)
    constants = graph.initialisers(net.model)
    weight, bias = constants["conv.weight"].copy(), constants["conv.bias"].copy()
    weight[1], weight[2], bias[1:3] = 0, weight[2] * 1e-12, [0.7, -0.9]
    for tensor, value in zip(net.model.graph.initializer, (weight, bias), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    x = rng.standard_normal((2, 3, 6, 7)).astype(np.float32)
    scales = _scales(net.model, {"x": x, "y": _conv(x, weight, bias)}, False)
    model = QdqWriter(net.model, scales, QdqScheme(symmetric=False, fused=True)).write(graph.layers(net.model))
    made = Network(model)({"x": x})[0]
    assert np.abs(made[:, 1] - 0.7).max() <= scales["y"][0]
    assert np.abs(made[:, 2] + 0.9).max() <= scales["y"][0]


def test_integers_go_through_relu_and_upsampling(rng: np.random.Generator, make: dict) -> None:
    """The result is quantised behind the ReLU, and what nearest upsampling repeats has the scale of what it repeats."""
    net = make["chain"](rng)
    one, two = graph.layers(net.model)
    assert (one.output, two.input, observed(net.model, [one, two])) == ("r", "u", {"x", "r", "y"})
    scales: dict[str, Scale] = {"x": (np.float32(0.1), 9), "r": (np.float32(0.2), 0), "y": (np.float32(0.3), 7)}
    model = QdqWriter(net.model, scales, QdqScheme(symmetric=False, fused=True)).write([one, two])
    nodes = {node.output[0]: node for node in model.graph.node}
    assert (nodes["r"].op_type, nodes["r_float"].op_type, nodes["r_float"].input[0]) == ("DequantizeLinear", "Relu", "a")
    constants = graph.initialisers(model)
    assert (constants["u_scale"], constants["u_zero"]) == (np.float32(0.2), 0)
    assert nodes["a"].input[0] == "x_dq"
    assert nodes["y_float"].input[0] == "u_dq"


def test_only_the_chosen_layers(rng: np.random.Generator, make: dict) -> None:
    net = make["chain"](rng)
    one, two = graph.layers(net.model)
    writer = QdqWriter(net.model, {n: (np.float32(0.1), 0) for n in "xry"}, QdqScheme(symmetric=True))
    for chosen in ([], [one], [two], [one, two]):
        model = writer.write(chosen)
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        for layer in (one, two):
            assert (layer.weight in kinds) == (layer not in chosen)
            assert (kinds.get(f"{layer.weight}_int8") == onnx.TensorProto.INT8) == (layer in chosen)
    assert writer.write([]).graph.node == net.model.graph.node
    assert net.model.graph.node[0].input[0] == "x"  # the original is left alone


def test_a_weight_that_others_read_too_is_stored_once(rng: np.random.Generator, make: dict) -> None:
    """The other readers take the dequantised tensor, whether they come before or after the layers."""
    nodes = [
        helper.make_node("Mul", ["w", "x"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Add", ["b", "w"], ["y"]),
    ]
    net = make["decoder"]("shared", nodes, {"w": rng.standard_normal((4, 4)).astype(np.float32)}, [4, 4], [4, 4])
    layers = graph.layers(net.model)
    assert [layer.name for layer in layers] == ["w", "w (b)"]
    scales = {name: (np.float32(0.05), 0) for name in "xsaby"}
    model = QdqWriter(net.model, scales, QdqScheme(symmetric=True, fused=False)).write(layers)
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name for tensor in model.graph.initializer}
    assert "w_int8" in tensors
    assert "w" not in tensors
    assert [list(node.input) for node in model.graph.node if node.op_type in ("Mul", "Add")] == [["w_dq", "x"], ["b", "w_dq"]]


def test_costs_of_layers(rng: np.random.Generator, make: dict) -> None:
    (layer,) = graph.layers(make["conv"](rng).model)
    assert (layer.macs, layer.bytes, layer.axis, layer.bias) == (6 * 7 * 5 * 3 * 9, 4 * 5 * 3 * 9, 0, "conv.bias")
    a, b, c = graph.layers(make["products"](rng).model)
    assert [(x.name, x.macs, x.axis) for x in (a, b, c)] == [("a", 72, 0), ("b", 63, 1), ("c", 28, 1)]
