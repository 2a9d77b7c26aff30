"""LoRA adapters that were exported as a branch of their own become part of the weight beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.export.adapters import fold_adapters
from aigc_edge.export.fold import fold_constants

N = helper.make_node
Parts = tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[Any]]
PRODUCTS = ("MatMul", "Gemm", "Conv")


def matrices(rng: np.random.Generator) -> Parts:
    """As torch's linear layers of tokens: bias behind the product, the scale behind the adapter."""
    nodes = [
        N("MatMul", ["x", "w"], ["p"]),
        N("Add", ["bias", "p"], ["b"]),
        N("MatMul", ["x", "down"], ["d"]),
        N("MatMul", ["d", "up"], ["u"]),
        N("Mul", ["u", "scale"], ["s"]),
        N("Add", ["b", "s"], ["z"]),
    ]
    return nodes, _normal(rng, w=(8, 6), bias=(6,), down=(8, 2), up=(2, 6), scale=()), [5, 8]


def gemms(rng: np.random.Generator) -> Parts:
    """The adapter first, a scale in front of it and another one inside."""
    nodes = [
        N("Mul", ["scale", "x"], ["x2"]),
        N("Gemm", ["x2", "down"], ["d"], transB=1, alpha=0.5),
        N("Div", ["d", "by"], ["e"]),
        N("MatMul", ["e", "up"], ["u"]),
        N("Gemm", ["x2", "w", "bias"], ["b"], transB=1),
        N("Add", ["u", "b"], ["z"]),
    ]
    constants = _normal(rng, w=(6, 8), bias=(6,), down=(2, 8), up=(2, 6), scale=())
    return nodes, constants | {"by": rng.uniform(0.5, 2, 1).astype(np.float32)}, [8]


def pointwise(rng: np.random.Generator) -> Parts:
    nodes = [
        N("Conv", ["x", "w", "bias"], ["b"]),
        N("Conv", ["x", "down"], ["d"], kernel_shape=[1, 1]),
        N("Conv", ["d", "up"], ["u"], strides=[1, 1], pads=[0, 0, 0, 0]),
        N("Add", ["b", "u"], ["z"]),
    ]
    return nodes, _normal(rng, w=(6, 8, 1, 1), bias=(6,), down=(2, 8, 1, 1), up=(6, 2, 1, 1)), [8, 4, 4]


def strided(rng: np.random.Generator) -> Parts:
    places = {"strides": [2, 1], "pads": [1, 0, 0, 1]}
    nodes = [
        N("Conv", ["x", "w"], ["b"], **places),
        N("Conv", ["x", "down"], ["d"], **places),
        N("Conv", ["d", "up"], ["u"]),
        N("Mul", ["u", "scale"], ["s"]),
        N("Add", ["s", "b"], ["z"]),
    ]
    return nodes, _normal(rng, w=(6, 8, 3, 2), down=(2, 8, 3, 2), up=(6, 2, 1, 1), scale=(1,)), [8, 5, 5]


def two_adapters(rng: np.random.Generator) -> Parts:
    nodes, constants, shape = matrices(rng)
    nodes[-1].output[0] = "first"
    nodes += [N("MatMul", ["x", "down2"], ["d2"]), N("MatMul", ["d2", "up2"], ["u2"]), N("Add", ["first", "u2"], ["z"])]
    return nodes, constants | _normal(rng, down2=(8, 3), up2=(3, 6)), shape


def _normal(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.asarray(rng.standard_normal(shape) + (not shape), np.float32) for name, shape in shapes.items()}


def _folded(parts: Parts, rng: np.random.Generator) -> tuple[Counter[str], float]:
    """The operators of the folded network, and its largest error relative to the largest value."""
    nodes, constants, shape = parts
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *s]) for n, s in (("x", shape), ("y", [None] * len(shape))))
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([*nodes, N("Tanh", ["z"], ["y"])], "g", [x], [y], tensors)
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(onnx.ModelProto.FromString(before.SerializeToString()))
    fold_constants(model, "the network")
    fold_adapters(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    feeds = {"x": rng.standard_normal((3, *shape)).astype(np.float32) / 8}
    results = []
    for each in (before, after):
        session = onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, feeds)[0])
    return Counter(node.op_type for node in after.graph.node), float(np.abs(results[1] - results[0]).max())


@pytest.mark.parametrize("make", [matrices, gemms, pointwise, strided, two_adapters])
def test_an_adapter_becomes_part_of_its_weight(make: Callable[[np.random.Generator], Parts], rng: np.random.Generator) -> None:
    operators, error = _folded(make(rng), rng)
    assert sum(operators[op] for op in PRODUCTS) == 1
    assert error <= 2e-5


def _activation(nodes: list[onnx.NodeProto]) -> None:
    nodes.insert(3, N("Relu", ["d"], ["r"]))
    nodes[4].input[0] = "r"


def _bias_inside(nodes: list[onnx.NodeProto]) -> None:
    nodes.insert(3, N("Add", ["d", "scale"], ["r"]))
    nodes[4].input[0] = "r"


def _another_source(nodes: list[onnx.NodeProto]) -> None:
    nodes.insert(0, N("Sin", ["x"], ["x2"]))
    nodes[3].input[0] = "x2"


def _second_reader(nodes: list[onnx.NodeProto]) -> None:
    nodes[-1].output[0] = "z1"
    nodes += [N("MatMul", ["x", "w"], ["again"]), N("Mul", ["z1", "again"], ["z"])]


def _result_of_the_adapter(nodes: list[onnx.NodeProto]) -> None:
    nodes[-1].output[0] = "z1"
    nodes.append(N("Mul", ["z1", "u"], ["z"]))


@pytest.mark.parametrize("change", [_activation, _bias_inside, _another_source, _second_reader, _result_of_the_adapter])
def test_what_is_no_adapter_of_one_weight_stays(change: Callable[[Any], None], rng: np.random.Generator) -> None:
    nodes, constants, shape = matrices(rng)
    change(nodes)
    operators, error = _folded((nodes, constants, shape), rng)
    assert operators["MatMul"] >= 3
    assert error <= 2e-6


def test_an_adapter_divided_by_zero_stays(rng: np.random.Generator) -> None:
    nodes, constants, shape = gemms(rng)
    operators, _ = _folded((nodes, constants | {"by": np.zeros(1, np.float32)}, shape), rng)
    assert sum(operators[op] for op in PRODUCTS) == 3


@pytest.mark.parametrize("change", [{"strides": [1, 1]}, {"pads": [0, 1, 1, 0]}, {"group": 2}])
def test_convolutions_that_read_other_places_stay(change: dict[str, Any], rng: np.random.Generator) -> None:
    nodes, constants, shape = strided(rng)
    if "group" in change:  # of all three: the weights have other shapes then
        constants |= _normal(rng, w=(6, 4, 3, 2), down=(2, 4, 3, 2))
        changed = nodes[:2]
    else:
        changed = nodes[1:2]
        shape = [8, 5, 5]
    places = {"strides": [2, 1], "pads": [1, 0, 0, 1]} | change
    for node in changed:
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in places.items())
    if change == {"strides": [1, 1]}:  # the shapes of the sum differ unless the other result is repeated
        nodes.insert(3, N("MaxPool", ["u"], ["v"], kernel_shape=[1, 1], strides=[2, 1]))
        nodes[4].input[0] = "v"
    operators, error = _folded((nodes, constants, shape), rng)
    assert operators["Conv"] == 3
    assert error <= 2e-6
