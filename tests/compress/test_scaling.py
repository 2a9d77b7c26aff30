"""What layers multiply is seen as it is, scales move into what computes their inputs, and help where channels differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.compress.calibration.layer_inputs import layer_inputs
from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.format import parse
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.graphs.rewrite import rewritten
from aigc_edge.compress.graphs.weights import from_rows, to_rows, weights_of
from aigc_edge.compress.scaling.absorb import Absorber

IMAGE = (6, 9, 8)


def _weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


LAYERS = {
    "conv": ("Conv", (5, 6, 3, 3), {"pads": [1, 1, 1, 1]}, IMAGE),
    "strided": ("Conv", (5, 6, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 3], "dilations": [2, 1]}, IMAGE),
    "transposed": ("ConvTranspose", (6, 5, 2, 2), {"strides": [2, 2]}, IMAGE),
    "matmul": ("MatMul", (6, 5), {}, (7, 6)),
    "gemm": ("Gemm", (5, 6), {"transB": 1}, (6,)),
}


@pytest.mark.parametrize("kind", list(LAYERS))
def test_rows_times_weight_is_the_output(rng: np.random.Generator, make: dict, kind: str) -> None:
    op, shape, attributes, size = LAYERS[kind]
    weight = _weight(rng, *shape)
    net = make["decoder"](kind, [helper.make_node(op, ["x", "w"], ["y"], **attributes)], {"w": weight}, list(size), [1])
    del net.model.graph.output[0].type.tensor_type.shape.dim[:]
    net.model.graph.output[0].type.tensor_type.ClearField("shape")
    (layer,) = weights_of(net.model)
    rows = to_rows(layer, weight)
    np.testing.assert_array_equal(from_rows(layer, rows, weight.shape), weight)
    x = rng.standard_normal((1, *size)).astype(np.float32)
    ((_, found),) = layer_inputs(net.model, [layer], [Record(0, {"x": x})], 10_000, 1)
    output = graph.Network(net.model)({"x": x})[0]
    if kind == "transposed":  # kernel as large as the stride: each output comes from one input
        output = output.reshape(1, 5, 9, 2, 8, 2).transpose(0, 2, 4, 1, 3, 5).reshape(72, 20)
    else:
        output = np.moveaxis(output, 1, -1).reshape(-1, 5) if op == "Conv" else output.reshape(-1, 5)
    made = found[layer.node] @ rows.T
    apart = np.abs(made[:, None] - output[None]).max(axis=2)
    assert apart.min(axis=1).max() < 1e-5  # every row is a place of the output
    assert apart.min(axis=0).max() < 1e-5  # and every place was seen


def _producers(rng: np.random.Generator) -> dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...]]]:
    node = helper.make_node
    last = {"w": _weight(rng, 16, 4)}
    conv = {"a.w": _weight(rng, 16, 6, 1, 1), "a.b": _weight(rng, 16), "w": _weight(rng, 4, 16, 3, 3)}
    return {
        "norm": (
            [node("LayerNormalization", ["x", "s", "b"], ["h"], axis=-1), node("MatMul", ["h", "w"], ["y"])],
            {"s": _weight(rng, 16), "b": _weight(rng, 16), **last},
            (3, 16),
        ),
        "affine": (
            [node("Mul", ["x", "s"], ["m"]), node("Add", ["m", "b"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
            {"s": _weight(rng, 16), "b": _weight(rng, 16), **last},
            (3, 16),
        ),
        "linear": (
            [node("MatMul", ["x", "a.w"], ["m"]), node("Add", ["a.b", "m"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
            {"a.w": _weight(rng, 8, 16), "a.b": _weight(rng, 16), **last},
            (3, 8),
        ),
        "conv": (
            [node("Conv", ["x", "a.w", "a.b"], ["c"]), node("Relu", ["c"], ["h"]), node("Conv", ["h", "w"], ["y"])],
            conv,
            IMAGE,
        ),
    }


@pytest.mark.parametrize("kind", ["norm", "affine", "linear", "conv"])
def test_a_producer_takes_the_division(rng: np.random.Generator, make: dict, kind: str) -> None:
    nodes, constants, size = _producers(rng)[kind]
    net = make["decoder"](kind, nodes, constants, list(size), [1])
    net.model.graph.output[0].type.tensor_type.ClearField("shape")
    x = rng.standard_normal((2, *size)).astype(np.float32)
    wanted = graph.Network(net.model)({"x": x})[0]
    scales = np.exp(rng.normal(0, 2, 16)).astype(np.float32)
    absorber = Absorber(net.model)
    assert absorber.divide("h", {"y"}, scales, 1 if kind == "conv" else -1)
    weight = constants["w"] * scales.reshape((1, 16, 1, 1) if kind == "conv" else (16, 1))
    changed = rewritten(net.model, {}, absorber.changed | {"w": weight})
    np.testing.assert_allclose(graph.Network(changed)({"x": x})[0], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    assert not np.allclose(graph.Network(rewritten(net.model, {}, {"w": weight}))({"x": x})[0], wanted, rtol=0.1)
    other = make["decoder"](kind, [*nodes, helper.make_node("Sigmoid", ["h"], ["z"])], constants, list(size), [1])
    refused = Absorber(other.model)
    assert not refused.divide("h", {"y"}, scales, 1 if kind == "conv" else -1)  # somebody else reads it
    assert not refused.changed


@pytest.mark.parametrize("behind", ["constant", "Sqrt"])
@pytest.mark.parametrize("name", ["int4", "nvfp4"])
def test_outliers_are_scaled_away(rng: np.random.Generator, make: dict, name: str, behind: str, tmp_path: Path) -> None:
    """Channels that carry much are rounded finer: their weights are small, and the error is what the others cause."""
    node = helper.make_node
    size = np.ones((1, 128), np.float32)
    size[0, rng.integers(32, size=4) + 32 * np.arange(4)] = 1000  # one in each block that int4 rounds together
    # A root that is computed: nothing there takes the division, so an operator of its own has to, in front of the layer.
    nodes = [
        node("MatMul", ["x", "a.weight"], ["a"]),
        *([node("Sqrt", ["squares"], ["size"])] if behind == "Sqrt" else []),
        node("Mul", ["a", "size"], ["h"]),
        node("MatMul", ["h", "b.weight"], ["b"]),
        node("MatMul", ["b", "c.weight"], ["y"]),
    ]
    weights = {"a.weight": _weight(rng, 64, 128), "b.weight": _weight(rng, 128, 64), "c.weight": _weight(rng, 64, 64)}
    extra = {"squares": np.square(size)} if behind == "Sqrt" else {"size": size}
    net = make["decoder"]("outliers", nodes, weights | extra, [64], [64])
    x, figures = rng.standard_normal((512, 64)).astype(np.float32), {}
    wanted = graph.Network(net.model)({"x": x})[0]
    for scaled in (True, False):
        parse(f"{name}:psnr=0,scaled={scaled}").convert(net.write(tmp_path), tmp_path / "out.onnx", net.calibration(128))
        model = onnx.load(tmp_path / "out.onnx")
        figures[scaled] = np.linalg.norm(graph.Network(folded(model))({"x": x})[0] - wanted)
        written = [n.op_type for n in model.graph.node]
        if scaled and name == "int4":
            assert written.count("Mul") == (2 if behind == "Sqrt" else 1)
    # What is large rounds by the same share in a floating-point type: there the scaling must only do no harm.
    assert figures[True] < (0.9 if name == "int4" else 1.1) * figures[False]
