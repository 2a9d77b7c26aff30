"""Group norms that keep channels last, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.norms import without_reshape
from aigc_edge.compress.graphs.qdq_scheme import SCHEMES


def _nodes(channels: int, size: tuple[int, int], groups: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """As the exporter writes it: an instance norm of each group, scaled and shifted behind."""
    nodes = [
        helper.make_node("Reshape", ["x", "to"], ["grouped"]),
        helper.make_node("InstanceNormalization", ["grouped", "ones", "zeros"], ["normal"], epsilon=1e-3),
        helper.make_node("Reshape", ["normal", "back"], ["n"]),
        helper.make_node("Mul", ["n", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["y"]),
    ]
    constants = {
        "to": np.array([0, groups, -1]),
        "back": np.array([-1, channels, *size]),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
        "scale": np.linspace(0.5, 2, channels, dtype=np.float32).reshape(-1, 1, 1),
        "shift": np.linspace(-1, 1, channels, dtype=np.float32).reshape(-1, 1, 1),
    }
    return nodes, constants


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (6, 6), (12, 1), (24, 8)])
def test_it_computes_the_same(rng: np.random.Generator, make: dict, channels: int, groups: int) -> None:
    size = (5, 7)
    nodes, constants = _nodes(channels, size, groups)
    net = make["decoder"]("norm", nodes, constants, [channels, *size], [channels, *size])
    x = (rng.standard_normal((3, channels, *size)) * rng.uniform(0.1, 4, (3, channels, 1, 1)) + rng.normal()).astype(np.float32)
    x[1, 0] = 0
    split = x.astype(np.float64).reshape(3, groups, -1)
    exact = (split - split.mean(2, keepdims=True)) / np.sqrt(split.var(2, keepdims=True) + 1e-3)
    exact = exact.reshape(x.shape) * constants["scale"] + constants["shift"]
    made = without_reshape(net.model)
    onnx.checker.check_model(made, full_check=True)
    assert {"InstanceNormalization", "Reshape"}.isdisjoint(node.op_type for node in made.graph.node)
    was, now = (np.abs(graph.Network(model)({"x": x})[0] - exact).max() for model in (net.model, made))
    apart = (split.mean(2) ** 2 / (split.var(2) + 1e-3)).max()  # what a mean far from 0 costs a variance in float32
    assert now <= 10 * was + 1e-5 + 8 * np.finfo(np.float32).eps * apart
    assert SCHEMES["openvino"].layers(made) == []  # means of groups are no layers to quantise


def test_what_is_no_group_norm_is_left(make: dict) -> None:
    nodes, constants = _nodes(4, (3, 3), 2)
    constants["ones"] = np.array([1, 2], np.float32)  # scales groups, not channels
    model = make["decoder"]("other", nodes, constants, [4, 3, 3], [4, 3, 3]).model
    assert without_reshape(model) is model
