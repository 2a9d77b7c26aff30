"""Two of every four, the right two, and what is left makes up for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from aigc_edge.compress.format import parse
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.scaling.sparsity import DAMPING, inverse_root, mask_of, sparsegpt


def _correlated(rng: np.random.Generator, samples: int, inputs: int) -> np.ndarray:
    return (rng.standard_normal((samples, inputs // 2)) @ rng.standard_normal((inputs // 2, inputs))).astype(np.float32)


def test_the_two_largest_of_four_stay(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((5, 18)).astype(np.float32)
    mask = mask_of(rows)
    fours, kept = np.abs(rows[:, :16]).reshape(5, 4, 4), mask[:, :16].reshape(5, 4, 4)
    assert (kept.sum(axis=2) == 2).all()
    assert (np.where(kept == 1, fours, np.inf).min(axis=2) >= np.where(kept == 0, fours, 0).max(axis=2)).all()
    assert (mask[:, 16:] == 1).all()


def test_the_root_is_that_of_the_inverse_hessian(rng: np.random.Generator) -> None:
    inputs = _correlated(rng, 300, 60)
    hessian = inputs.T.astype(np.float64) @ inputs
    hessian += np.eye(60) * DAMPING * np.diagonal(hessian).mean()
    root = inverse_root(inputs)
    np.testing.assert_array_equal(root, np.triu(root))
    np.testing.assert_allclose(root.T.astype(np.float64) @ root @ hessian, np.eye(60), atol=2e-2)


def test_sparsegpt_follows_the_inverse_hessian(rng: np.random.Generator) -> None:
    """Column by column, against the update written out with the inverse of what remains of the Hessian (float64)."""
    inputs = _correlated(rng, 400, 12)
    rows = rng.standard_normal((7, 12)).astype(np.float32)
    made = sparsegpt(rows, inverse_root(inputs))
    hessian = inputs.T.astype(np.float64) @ inputs
    hessian += np.eye(12) * DAMPING * np.diagonal(hessian).mean()
    expected = rows.astype(np.float64)
    for column in range(12):
        inverse = np.linalg.inv(hessian[column:, column:])
        if column % 4 == 0:
            sizes = [np.linalg.inv(hessian[c:, c:])[0, 0] for c in range(column, column + 4)]
            loss = np.square(expected[:, column : column + 4]) / sizes
            gone = np.argsort(loss, axis=1)[:, :2] + column
        lost = np.where((gone == column).any(axis=1), expected[:, column], 0)
        expected[:, column:] -= np.outer(lost / inverse[0, 0], inverse[0])
    np.testing.assert_allclose(made, expected, atol=1e-3)
    assert ((made.reshape(7, 3, 4) != 0).sum(axis=2) == 2).all()


def test_sparsegpt_errs_less_than_magnitude(rng: np.random.Generator) -> None:
    inputs, rows = _correlated(rng, 500, 64), rng.standard_normal((32, 64)).astype(np.float32)
    wanted = inputs @ rows.T
    best = np.linalg.norm(inputs @ sparsegpt(rows, inverse_root(inputs)).T - wanted)
    # The ratio of 400 draws: 0.62 ± 0.03, at most 0.72.
    assert best < 0.8 * np.linalg.norm(inputs @ (rows * mask_of(rows)).T - wanted)


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8w"])
def test_zeros_lie_along_the_input_channels(
    rng: np.random.Generator, make: dict, method: str, weights: str, tmp_path: Path
) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "a.weight"], ["a"]),
        node("Conv", ["a", "b.weight"], ["b"], pads=[1, 1, 1, 1]),
        node("Flatten", ["b"], ["f"]),
        node("MatMul", ["f", "c.weight"], ["c"]),
        node("MatMul", ["c", "d.weight"], ["y"]),
    ]
    shapes = {"a.weight": (32, 4, 1, 1), "b.weight": (16, 32, 3, 3), "c.weight": (256, 24), "d.weight": (24, 8)}
    constants = {key: rng.standard_normal(shape).astype(np.float32) / 8 for key, shape in shapes.items()}
    net = make["decoder"]("sparse", nodes, constants, [4, 4, 4], [8])
    text = f"sparse24:psnr=0,method={method},weights={weights}"
    report = parse(text).convert(net.write(tmp_path), tmp_path / "out.onnx", net.calibration(4)).to_json()
    model = folded(onnx.load(tmp_path / "out.onnx"))
    found = graph.initialisers(model)
    named = {layer.node: found[layer.weight] for layer in graph.layers(model)}
    fours = {"b": named["b"].reshape(16, 8, 4, 9).swapaxes(2, 3), "c": named["c"].T.reshape(24, 64, 4)}
    for name, value in fours.items():
        assert ((value != 0).sum(axis=-1) <= 2).all(), name
        assert (value != 0).mean() > 0.45
        assert report["nodes"][name]["format"] == "sparse24"
    assert (named["a"] != 0).mean() > 0.9
    each = {"fp32": 4, "fp16": 2, "int8w": 1}[weights]
    assert report["bytes"] <= each * sum(np.prod(shape) for shape in shapes.values()) + 4000
