"""Constants computed from constants: weights become initialisers, whatever other exporters and parametrisations make of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.errors import AigcEdgeError
from aigc_edge.export import fold
from aigc_edge.export.fold import fold_constants

N = helper.make_node
Constants = dict[str, np.ndarray]


def model_of(nodes: list[onnx.NodeProto], constants: Constants, opset: int = 20, out: int = 6) -> onnx.ModelProto:
    """A model from x [N, 8] to y [N, out]."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", 8), ("y", out)))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def fold_of(model: onnx.ModelProto) -> onnx.ModelProto:
    folded = ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))  # which shares its memory
    fold_constants(folded, "the network")
    result = ir.to_proto(folded)
    onnx.checker.check_model(result, full_check=True)
    return result


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # or it rounds activations behind DequantizeLinear
    result: np.ndarray = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
    return result


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def constant_node(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    return [N("Constant", [], ["w"], value=numpy_helper.from_array(normal(rng, 8, 6)))], {}


def chain(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    """Cast, Reshape, Transpose and Identity behind a Constant node in half precision."""
    half = numpy_helper.from_array(normal(rng, 48).astype(np.float16))
    nodes = [
        N("Constant", [], ["h"], value=half),
        N("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        N("Constant", [], ["shape"], value_ints=[6, 8]),
        N("Reshape", ["f", "shape"], ["r"]),
        N("Transpose", ["r"], ["t"], perm=[1, 0]),
        N("Identity", ["t"], ["w"]),
    ]
    return nodes, {}


def dequantised(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    codes = rng.integers(-127, 128, (8, 6)).astype(np.int8)
    return [N("DequantizeLinear", ["codes", "scale"], ["w"], axis=1)], {"codes": codes, "scale": np.abs(normal(rng, 6))}


def weight_norm(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    nodes = [N("ReduceL2", ["v", "axis"], ["norm"]), N("Div", ["v", "norm"], ["unit"]), N("Mul", ["unit", "g"], ["w"])]
    return nodes, {"v": normal(rng, 8, 6), "g": normal(rng, 1, 6), "axis": np.array([0])}


def spectral_norm(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    nodes = [N("MatMul", ["m", "v"], ["mv"]), N("MatMul", ["u", "mv"], ["sigma"]), N("Div", ["m", "sigma"], ["w"])]
    return nodes, {"m": normal(rng, 8, 6), "v": normal(rng, 6), "u": normal(rng, 8)}


def standardised(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    nodes = [
        N("ReduceMean", ["m", "axis"], ["mean"]),
        N("Sub", ["m", "mean"], ["centred"]),
        N("ReduceL2", ["centred", "axis"], ["size"]),
        N("Div", ["centred", "size"], ["w"]),
    ]
    return nodes, {"m": normal(rng, 8, 6), "axis": np.array([0])}


def equalised(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    return [N("Mul", ["m", "rate"], ["w"])], {"m": normal(rng, 8, 6), "rate": np.float32(0.35).reshape(())}


def adapter(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], Constants]:
    nodes = [N("MatMul", ["down", "up"], ["change"]), N("Add", ["m", "change"], ["w"])]
    return nodes, {"m": normal(rng, 8, 6), "down": normal(rng, 8, 2), "up": normal(rng, 2, 6)}


SHAPES: dict[str, Callable[[np.random.Generator], tuple[list[onnx.NodeProto], Constants]]] = {
    function.__name__: function
    for function in (constant_node, chain, dequantised, weight_norm, spectral_norm, standardised, equalised, adapter)
}


@pytest.mark.parametrize("small", [0, fold.SMALL])
@pytest.mark.parametrize("name", SHAPES)
def test_a_weight_is_an_initialiser(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, name: str, small: int) -> None:
    monkeypatch.setattr(fold, "SMALL", small)  # small weights as large ones: no result is larger than what it comes from
    before, constants = SHAPES[name](rng)
    model = model_of([*before, N("MatMul", ["x", "w"], ["y"])], constants)
    folded, x = fold_of(model), normal(rng, 5, 8)
    assert [node.op_type for node in folded.graph.node] == ["MatMul"]
    (weight,) = folded.graph.initializer
    assert (weight.data_type, list(weight.dims)) == (TensorProto.FLOAT, [8, 6])
    wanted = run(model, x)
    np.testing.assert_allclose(run(folded, x), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_names_are_those_of_the_weights(rng: np.random.Generator) -> None:
    stored = "net.0.parametrizations.weight.original1"
    nodes = [N("Mul", [stored, "g"], ["m"]), N("MatMul", ["x", "m"], ["y"])]
    folded = fold_of(model_of(nodes, {stored: normal(rng, 8, 6), "g": normal(rng, 1, 6)}))
    assert [tensor.name for tensor in folded.graph.initializer] == ["net.0.weight"]


def test_a_second_form_of_a_weight_has_a_name_of_its_own(rng: np.random.Generator) -> None:
    """A tied weight, read as it is and transposed."""
    nodes = [N("MatMul", ["x", "a.weight"], ["h"]), N("Transpose", ["a.weight"], ["t"], perm=[1, 0])]
    model = model_of([*nodes, N("MatMul", ["h", "t"], ["y"])], {"a.weight": normal(rng, 8, 6)}, out=8)
    folded, x = fold_of(model), normal(rng, 3, 8)
    assert sorted(tensor.name for tensor in folded.graph.initializer) == ["a.1.weight", "a.weight"]
    np.testing.assert_allclose(run(folded, x), run(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["expanded", "resized", "product"])
def test_what_is_larger_than_its_constants_stays_out(rng: np.random.Generator, kind: str) -> None:
    """Feature maps and tables that a few constants stand for are not stored."""
    wide = fold.SMALL + 16
    nodes, constants = {
        "expanded": ([N("Expand", ["c", "size"], ["w"])], {"c": normal(rng, 1, 2), "size": np.array([wide // 2, 1])}),
        "resized": (
            [N("Resize", ["c", "", "factors"], ["w"], mode="nearest")],
            {"c": normal(rng, wide // 8, 1, 2), "factors": np.array([1, 4, 1], np.float32)},
        ),
        "product": ([N("MatMul", ["c", "d"], ["w"])], {"c": normal(rng, wide // 2, 1), "d": normal(rng, 1, 2)}),
    }[kind]
    tail = [N("ReduceMax", ["w"], ["top"], keepdims=0), N("Add", ["x", "top"], ["a"])]
    last = [N("Slice", ["a", "from", "to", "axis"], ["y"])]
    bounds = {"from": np.array([0]), "to": np.array([6]), "axis": np.array([1])}
    model = model_of([*nodes, N("Mul", ["w", "x1"], ["scaled"]), *last], constants | bounds)
    del model.graph.node[:]
    reads = [N("ReduceMax", ["x"], ["x1"], keepdims=0), *nodes, N("Mul", ["w", "x1"], ["scaled"])]
    sums = [N("ReduceMax", ["scaled"], ["top"], keepdims=0), tail[1]]
    model.graph.node.extend([*reads, *sums, *last])
    folded, x = fold_of(model), normal(rng, 3, 8)
    assert nodes[0].op_type in [node.op_type for node in folded.graph.node]
    assert sum(np.prod(t.dims, dtype=int) for t in folded.graph.initializer) <= sum(v.size for v in (constants | bounds).values())
    np.testing.assert_allclose(run(folded, x), run(model, x), rtol=1e-5)


def test_many_forms_of_one_weight_do_not_multiply_the_file(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(fold, "SMALL", 0)
    nodes, names = [], []
    for index in range(5):
        nodes += [N("Mul", ["m", f"s{index}"], [f"w{index}"]), N("MatMul", ["x", f"w{index}"], [f"y{index}"])]
        names.append(f"y{index}")
    scales = {f"s{index}": np.float32(index + 1).reshape(1, 1) for index in range(5)}
    model = model_of([*nodes, N("Sum", names, ["y"])], {"m": normal(rng, 8, 6)} | scales)
    folded, x = fold_of(model), normal(rng, 3, 8)
    assert sum(np.prod(t.dims, dtype=int) for t in folded.graph.initializer) <= 2 * 48 + 5
    np.testing.assert_allclose(run(folded, x), run(model, x), rtol=1e-5, atol=1e-5)


def body(name: str, weight: np.ndarray) -> onnx.GraphProto:
    """A branch with a Constant node and an initialiser of its own; both branches use the same names inside."""
    out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["N", 6])
    nodes = [
        N("Constant", [], [f"{name}_half"], value=numpy_helper.from_array(weight.astype(np.float16))),
        N("Cast", [f"{name}_half"], [f"{name}_w"], to=TensorProto.FLOAT),
        N("MatMul", ["x", f"{name}_w"], [f"{name}_m"]),
        N("Add", [f"{name}_m", "bias"], [f"{name}_out"]),
    ]
    return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(weight[0], "bias")])


def test_bodies_read_constants_of_the_whole_graph(rng: np.random.Generator) -> None:
    branches = {f"{name}_branch": body(name, normal(rng, 8, 6)) for name in ("then", "else")}
    nodes = [
        N("ReduceSum", ["x"], ["s"], keepdims=0),
        N("Greater", ["s", "zero"], ["c"]),
        N("If", ["c"], ["y"], **branches),
    ]
    model = model_of(nodes, {"zero": np.float32(0).reshape(())})
    folded, x = fold_of(model), normal(rng, 3, 8)
    inner = [graph for node in folded.graph.node for item in node.attribute for graph in [item.g] if item.HasField("g")]
    assert len(inner) == 2
    assert all(not graph.initializer for graph in inner)
    assert {node.op_type for graph in inner for node in graph.node} == {"MatMul", "Add"}
    weights = [tensor for tensor in folded.graph.initializer if len(tensor.dims) == 2]
    assert [tensor.data_type for tensor in weights] == [TensorProto.FLOAT] * 2
    for sign in (1, -1):
        batch = np.abs(x) * np.float32(sign)
        np.testing.assert_allclose(run(folded, batch), run(model, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["qdq", "dynamic", "integers"])
def test_a_quantised_network_is_refused_by_name(rng: np.random.Generator, kind: str) -> None:
    constants = {"s": np.float32(0.1).reshape(()), "z": np.int8(0).reshape(()), "w": rng.integers(-5, 5, (8, 6)).astype(np.int8)}
    unit, zero = ["s", "z"], ["z"]
    nodes = {
        "qdq": [
            N("QuantizeLinear", ["x", *unit], ["q"]),
            N("DequantizeLinear", ["q", *unit], ["d"]),
            N("DequantizeLinear", ["w", *unit], ["wf"]),
            N("MatMul", ["d", "wf"], ["y"]),
        ],
        "dynamic": [
            N("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
            N("MatMulInteger", ["q", "w", "qz"], ["i"]),
            N("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ],
        "integers": [
            N("QuantizeLinear", ["x", *unit], ["q"]),
            N("QLinearMatMul", ["q", *unit, "w", *unit, *unit], ["p"]),
            N("DequantizeLinear", ["p", *unit, *zero][:3], ["y"]),
        ],
    }[kind]
    with pytest.raises(AigcEdgeError, match=r"the network is quantised already \(.*\): compile the float32 network"):
        fold_of(model_of(nodes, constants))


@pytest.mark.parametrize("op", ["RandomNormalLike", "Bernoulli", "RandomUniformLike", "Dropout"])
def test_random_numbers_are_refused(rng: np.random.Generator, op: str) -> None:
    inputs = ["x", "ratio", "on"] if op == "Dropout" else ["x"]
    nodes = [N(op, inputs, ["r"]), N("Mul", ["x", "r"], ["m"]), N("MatMul", ["m", "w"], ["y"])]
    constants = {"w": normal(rng, 8, 6), "ratio": np.float32(0.5).reshape(()), "on": np.array(True)}
    with pytest.raises(AigcEdgeError, match=rf"the network draws random numbers \({op}\): make them an input"):
        fold_of(model_of(nodes, constants))


@pytest.mark.parametrize("inputs", [["x"], ["x", "ratio"], ["x", "ratio", "off"]])
def test_dropout_that_is_off_is_removed(rng: np.random.Generator, inputs: list[str]) -> None:
    constants = {"w": normal(rng, 8, 6), "ratio": np.float32(0.5).reshape(()), "off": np.array(False)}
    model = model_of([N("Dropout", inputs, ["d"]), N("MatMul", ["d", "w"], ["y"])], constants)
    folded, x = fold_of(model), normal(rng, 3, 8)
    assert [node.op_type for node in folded.graph.node] == ["MatMul"]
    np.testing.assert_array_equal(run(folded, x), run(model, x))
