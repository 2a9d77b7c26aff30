"""Half precision: casts only where the precision changes, and nothing in half that half cannot hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aigc_edge.compress.graphs.graph import Network, initialisers, types_and_shapes
from aigc_edge.compress.graphs.half import to_half


def test_angles_and_sums_stay_in_float32(rng: np.random.Generator, make: dict) -> None:
    net = make["unet"](rng)
    model = to_half(net.model)
    onnx.checker.check_model(model, full_check=True)
    kinds = {name: kind for name, (kind, _) in types_and_shapes(model).items()}
    for node in model.graph.node:
        first = kinds[node.input[0]]
        if node.op_type in ("Sin", "Cos", "InstanceNormalization", "Softmax"):
            assert first == TensorProto.FLOAT, node.name
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            assert first == TensorProto.FLOAT16, node.name
    frequencies = [a for a in initialisers(model).values() if a.dtype == np.float32 and a.size == 16]
    assert frequencies, "the frequencies of the timestep embedding were rounded"
    large = {name for name, a in initialisers(model).items() if a.dtype == np.float32 and a.ndim == 4}
    assert not large  # no convolution weight in float32


def test_no_cast_is_made_twice(rng: np.random.Generator, make: dict) -> None:
    model = to_half(make["unet"](rng).model)
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    producer = {name: node for node in model.graph.node for name in node.output}
    for name, _ in casts:  # and none undoes another
        assert name not in producer or producer[name].op_type != "Cast"


@pytest.mark.parametrize("value", [7e4, 3e38])
def test_constants_beyond_half_stay(rng: np.random.Generator, make: dict, value: float) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["a"]),
        helper.make_node("Mul", ["a", "small"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    constants = {"large": np.float32([value]), "small": np.float32([1 / value])}
    net = make["decoder"]("beyond", nodes, constants, [5], [5])
    x = np.abs(rng.standard_normal((2, 5))).astype(np.float32) * np.float32(1e-3)
    made = Network(to_half(net.model))({"x": x})[0]
    np.testing.assert_allclose(made, x, rtol=2e-3)


def test_floats_that_are_made_of_other_things(rng: np.random.Generator, make: dict) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["m"]),
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Mul", ["a", "m"], ["y"]),
    ]
    net = make["decoder"]("made", nodes, {}, [5], [5])
    model = to_half(net.model)
    onnx.checker.check_model(model, full_check=True)
    x = rng.standard_normal((2, 5)).astype(np.float32)
    np.testing.assert_allclose(Network(model)({"x": x})[0], (x + 0.5) * 5, rtol=4e-3, atol=4e-3)


def test_tiny_scales_stay_in_float32(rng: np.random.Generator, make: dict) -> None:
    """Half precision has few digits below 6e-5: a scale there would be off by percents."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    for scale, kept in ((3e-7, True), (0.01, False)):
        net = make["decoder"]("scale", nodes, {"scale": np.float32(scale), "zero": np.int8(0)}, [5], [5])
        model = to_half(net.model)
        assert ("scale" in initialisers(model)) == kept
        x = (rng.integers(0, 100, (2, 5)) * np.float32(scale)).astype(np.float32)
        np.testing.assert_allclose(Network(model, exact=True)({"x": x})[0], x, rtol=2e-3, atol=scale / 2)
