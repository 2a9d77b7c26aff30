"""Graph cleaning: what is simplified means the same, what only looks alike stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.export.clean import clean


def _model(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [value], [out], [numpy_helper.from_array(a, n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _cleaned(rng: np.random.Generator, model: onnx.ModelProto, shape: list[int]) -> onnx.ModelProto:
    """The cleaned model, after it was shown to compute the same bits at several batch sizes."""
    simplified = ir.from_proto(model)
    clean(simplified)
    result = ir.to_proto(simplified)
    onnx.checker.check_model(result, full_check=True)
    for batch in (1, 2, 5):
        x = rng.standard_normal((batch, *shape)).astype(np.float32)
        before, after = (onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (model, result))
        np.testing.assert_array_equal(after, before)
    return result


def _ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_shapes_become_constants(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["r", "t"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([2, 6])}
    result = _cleaned(rng, _model(nodes, [3, 4], constants), [3, 4])
    assert _ops(result) == ["Relu", "Reshape"]
    (target,) = (numpy_helper.to_array(t) for t in result.graph.initializer)
    assert target.tolist() == [-1, 2, 6]


def test_neutral_constants_go_unless_they_broadcast(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "ones"], ["a"]),
        helper.make_node("Add", ["zeros", "a"], ["b"]),
        helper.make_node("Mul", ["b", "grow"], ["c"]),  # [N, 3, 1] → [N, 3, 2]
        helper.make_node("Add", ["c", "nearly"], ["y"]),
    ]
    constants = {
        "ones": np.ones((3, 1), np.float32),
        "zeros": np.zeros(1, np.float32),
        "grow": np.ones((1, 1, 2), np.float32),
        "nearly": np.array([0, 1e-30], np.float32),
    }
    assert _ops(_cleaned(rng, _model(nodes, [3, 1], constants), [3, 1])) == ["Mul", "Add"]


@pytest.mark.parametrize(("perm", "last", "merged"), [([0, 2, 1], [-1, 2, 5, 4], True), ([0, 2, 1], [-1, 2, 4, 5], False)])
def test_transposes_around_reshapes(rng: np.random.Generator, perm: list[int], last: list[int], merged: bool) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=perm),
        helper.make_node("Reshape", ["b", "last"], ["c"]),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    result = _cleaned(rng, _model(nodes, [2, 4, 5], {"flat": np.array([-1, 4, 5]), "last": np.array(last)}), [2, 4, 5])
    assert _ops(result) == (["Transpose", "Neg"] if merged else ["Reshape", "Transpose", "Reshape", "Neg"])


def test_shapes_are_recorded(rng: np.random.Generator) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    result = _cleaned(rng, _model(nodes, [3], {"w": rng.standard_normal((3, 700)).astype(np.float32)}), [3])
    (value,) = (v for v in result.graph.value_info if v.name == "a")
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["N", 700]


@pytest.mark.parametrize(
    ("equation", "kind"),
    [("nhwc->nchw", "Transpose"), ("n h w c -> n w c h", "Transpose"), ("nhwc->nhw", "Einsum"), ("nhwh->nwh", "Einsum")],
)
def test_an_einsum_that_only_reorders_is_a_transpose(rng: np.random.Generator, equation: str, kind: str) -> None:
    nodes = [helper.make_node("Einsum", ["x"], ["e"], equation=equation), helper.make_node("Relu", ["e"], ["y"])]
    assert _ops(_cleaned(rng, _model(nodes, [3, 4, 3], {}), [3, 4, 3])) == [kind, "Relu"]
