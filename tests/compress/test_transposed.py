"""Transposed convolutions rewritten as convolutions, against torch in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.transposed import as_convolutions


def _net(rng: np.random.Generator, make: dict, size: tuple[int, int], kernel: tuple[int, int], **attributes: Any) -> Any:
    stride, padding, extra = (attributes.get(name, 0) for name in ("stride", "padding", "extra"))
    weight = rng.standard_normal((3, 5, *kernel)).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32)
    x = rng.standard_normal((2, 3, *size)).astype(np.float32)
    exact = torch.nn.functional.conv_transpose2d(
        *(torch.from_numpy(v).double() for v in (x, weight, bias)), stride=stride, padding=padding, output_padding=extra
    )
    act = attributes.get("act")
    node = helper.make_node(
        "ConvTranspose",
        ["x", "up.weight", "up.bias"],
        ["a" if act else "y"],
        strides=[stride] * 2,
        pads=[padding] * 4,
        output_padding=[extra] * 2,
    )
    nodes = [node] + ([helper.make_node(act, ["a"], ["y"])] if act else [])
    exact = {"LeakyRelu": lambda v: torch.where(v < 0, 0.01 * v, v), "Tanh": torch.tanh, None: lambda v: v}[act](exact)
    net = make["decoder"]("up", nodes, {"up.weight": weight, "up.bias": bias}, [3, *size], list(exact.shape[1:]))
    return net.model, x, exact.numpy()


CASES = [
    case
    for case in itertools.product([(5, 4), (1, 1)], [(4, 4), (3, 3), (2, 5), (1, 1)], [1, 2, 3], [0, 1], [0, 1])
    if case[4] < case[2] and (case[0][0] - 1) * case[2] + min(case[1]) - 2 * case[3] + case[4] > 0
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "extra"), CASES)
def test_it_computes_the_same(
    rng: np.random.Generator, make: dict, size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int, extra: int
) -> None:
    act = [None, "LeakyRelu", "Tanh"][int(rng.integers(3))]
    model, x, exact = _net(rng, make, size, kernel, stride=stride, padding=padding, extra=extra, act=act)
    made = as_convolutions(model)
    onnx.checker.check_model(made, full_check=True)
    got = graph.Network(made)({"x": x})[0]
    assert got.shape == exact.shape
    np.testing.assert_allclose(got, exact, atol=2e-6 * np.abs(exact).max() * 75)  # sums of at most 75 products in float32
    left = [node.op_type for node in made.graph.node if node.op_type == "ConvTranspose"]
    # More output than the kernel reaches cannot be cropped out of it.
    assert left == ([] if padding + (-kernel[0] % stride) >= extra <= padding + (-kernel[1] % stride) else ["ConvTranspose"])


def test_pointwise_operators_come_before_the_shuffle(rng: np.random.Generator, make: dict) -> None:
    model, *_ = _net(rng, make, (4, 4), (4, 4), stride=2, padding=1, act="Tanh")
    made = as_convolutions(model)
    assert [node.op_type for node in made.graph.node] == ["Conv", "Tanh", "DepthToSpace", "Slice"]
    (layer,) = graph.layers(made)
    assert layer.name.startswith("up.phases")
    assert layer.macs == 4 * 5 * 3 * 4 * 5 * 5  # as many as before, and those of the border


def test_what_cannot_be_rewritten_is_left(rng: np.random.Generator, make: dict) -> None:
    weight = rng.standard_normal((4, 1, 3, 3)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=4, strides=[2, 2])
    model = make["decoder"]("groups", [node], {"w": weight}, [4, 3, 3], [4, 7, 7]).model
    assert as_convolutions(model) is model
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], dilations=[2, 2], strides=[1, 1])
    weight = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    model = make["decoder"]("dilated", [node], {"w": weight}, [4, 3, 3], [2, 7, 7]).model
    assert as_convolutions(model) is model


def test_a_result_that_others_read_too(rng: np.random.Generator, make: dict) -> None:
    """The activation may change places only where nothing else reads what is in front of it."""
    weight = rng.standard_normal((3, 2, 2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["a", "r"], ["y"]),
    ]
    model = make["decoder"]("shared", nodes, {"w": weight}, [3, 4, 4], [2, 8, 8]).model
    x = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    made = as_convolutions(model)
    assert [node.op_type for node in made.graph.node] == ["Conv", "DepthToSpace", "Relu", "Add"]
    np.testing.assert_allclose(graph.Network(made)({"x": x})[0], graph.Network(model)({"x": x})[0], atol=1e-5)
