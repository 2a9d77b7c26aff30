"""Which layers count as the ends of a network: next to the sample and the result, and cheap; not all that read a text."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.first_and_last import without_first_and_last


def _network(blocks: int, first: int = 8) -> onnx.ModelProto:
    """x [N, 64, first] → width 256 → back, with keys and values of a text [N, 7, 8] added in every block."""
    weights: dict[str, np.ndarray] = {"first": np.ones((first, 256)), "last": np.ones((256, first)), "means": np.array([1])}
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"])]
    for i in range(blocks):
        weights |= {f"k{i}": np.ones((8, 256)), f"v{i}": np.ones((8, 256)), f"m{i}": np.ones((256, 256))}
        for kind in "kv":
            nodes.append(helper.make_node("MatMul", ["text", f"{kind}{i}"], [f"{kind}{i}_out"]))
            nodes.append(helper.make_node("ReduceMean", [f"{kind}{i}_out", "means"], [f"{kind}{i}_mean"]))
        nodes.append(helper.make_node("Mul", [f"k{i}_mean", f"v{i}_mean"], [f"kv{i}"]))
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"m{i}"], [f"m{i}_out"]))
        nodes.append(helper.make_node("Add", [f"m{i}_out", f"kv{i}"], [f"h{i + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"h{blocks}", "last"], ["y"]))
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *s]) for n, s in (("x", (64, first)), ("text", (7, 8)))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64, first])]
    constants = [numpy_helper.from_array(v.astype(np.int64 if k == "means" else np.float32), k) for k, v in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _preconditioned(skip: str) -> onnx.ModelProto:
    """x [N, 8] and noise → `skip` + F(x · noise) · noise, with 64 channels between the first and last of F's three layers."""
    weights = {
        "first": np.ones((8, 64)),
        "middle": np.ones((64, 64 * 32)),
        "back": np.ones((64 * 32, 64)),
        "last": np.ones((64, 8)),
    }
    nodes = [
        helper.make_node("Exp", ["noise"], ["level"]),
        helper.make_node("Mul", ["x", "level"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "first"], ["h"]),
        helper.make_node("MatMul", ["h", "middle"], ["wide"]),
        helper.make_node("MatMul", ["wide", "back"], ["b"]),
        helper.make_node("MatMul", ["b", "last"], ["f"]),
        helper.make_node("Mul", ["level", "f"], ["f_scaled"]),
        helper.make_node("Mul", ["x", "noise"], ["input_scaled"]),
        helper.make_node("ReduceMax", ["h"], ["layer_scaled"], keepdims=1),
        helper.make_node("Add", ["f_scaled", skip], ["sum"]),
        helper.make_node("Clip", ["sum"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 8), ("noise", 1))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _left_out(model: onnx.ModelProto) -> set[str]:
    layers = graph.layers(model)
    kept = {layer.weight for layer in without_first_and_last(model, layers)}
    return {layer.weight for layer in layers} - kept


@pytest.mark.parametrize("blocks", [9, 16])
def test_keys_and_values_of_a_text_are_no_ends(blocks: int) -> None:
    assert _left_out(_network(blocks)) == {"first", "last"}


def test_the_only_readers_of_an_input_are_ends_and_what_costs_much_is_none() -> None:
    assert _left_out(_network(1, first=128)) == {"k0", "v0"}


@pytest.mark.parametrize(
    ("skip", "ends"), [("input_scaled", {"first", "last"}), ("x", {"first", "last"}), ("layer_scaled", {"first"})]
)
def test_scaling_by_the_noise_level_and_a_skip_of_the_input_hide_no_ends(skip: str, ends: set[str]) -> None:
    assert _left_out(_preconditioned(skip)) == ends
