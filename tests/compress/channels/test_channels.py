"""Channels that go together: a network without them equals the whole network with them zeroed, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.channels.cut import cut
from aigc_edge.compress.channels.trace import trace
from aigc_edge.compress.channels.tracing import ChannelTrace
from aigc_edge.compress.channels.units import ChannelGroup, Costs, groups_of
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.weights import weights_of


def feeds(model: onnx.ModelProto, rng: np.random.Generator, batch: int = 3) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [size.dim_value or batch for size in kind.shape.dim]
        whole = kind.elem_type == TensorProto.INT64
        found[value.name] = rng.integers(0, 3, shape) if whole else rng.standard_normal(shape, np.float32)
    return found


def zeroed(state: ChannelTrace, removed: set[int]) -> onnx.ModelProto:
    """The whole network with zeros where layers multiply the removed channels."""
    model = onnx.ModelProto()
    model.CopyFrom(state.model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for site in state.labels.sites:
        if state.labels.consumers.get(site.node) is not site.labels or site.kind != "constant" or site.place != 1:
            continue
        name = model.graph.node[site.node].input[1]
        weight = numpy_helper.to_array(tensors[name]).copy()
        gone = np.isin(state.labels.roots(site.labels), sorted(removed))
        np.moveaxis(weight, site.axis, 0)[gone] = 0
        tensors[name].CopyFrom(numpy_helper.from_array(weight, name))
    return model


def some(groups: list[ChannelGroup], rng: np.random.Generator) -> set[int]:
    """A random part of each group, at least one unit, not all."""
    removed: set[int] = set()
    for group in groups:
        roots = [unit.root for unit in group.units]
        removed |= {int(root) for root in rng.permutation(roots)[: int(rng.integers(1, len(roots)))]}
    return removed


def check(model: onnx.ModelProto, rng: np.random.Generator, expected: set[str] | None = None) -> onnx.ModelProto:
    state = trace(model)
    costs = Costs(state)
    groups = groups_of(state, costs)
    if expected is not None:
        assert {group.name for group in groups} == expected
    removed = some(groups, rng)
    made = cut(state, removed)
    onnx.checker.check_model(made, full_check=True)
    inputs = feeds(model, rng)
    wanted = graph.Network(zeroed(state, removed))(inputs)[0]
    result = graph.Network(made)(inputs)[0]
    assert np.linalg.norm(result - wanted) <= 5e-6 * np.linalg.norm(wanted)
    assert np.linalg.norm(result - graph.Network(model)(inputs)[0]) > 1e-4 * np.linalg.norm(wanted), "nothing was removed"
    assert costs.macs(removed) < costs.macs()
    assert sum(layer.macs for layer in weights_of(made)) == pytest.approx(costs.macs(removed), rel=1e-6)
    assert [(v.name, v.type) for v in made.graph.input] == [(v.name, v.type) for v in model.graph.input]
    return made


@pytest.mark.parametrize("family", ["diffusion", "gan", "transformer"])
def test_families(families: dict[str, Any], family: str, rng: np.random.Generator) -> None:
    check(graph.load(families[family][0]), rng)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], inputs: dict[str, list[int]], out: list[int]
) -> onnx.ModelProto:
    starts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in inputs.items()]
    end = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *out])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", starts, end, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


N = helper.make_node


def test_schedule_constants_from_outside_are_gathered(rng: np.random.Generator) -> None:
    """Two sums with the same input take one Gather; a third, of other channels, has its own."""
    nodes = [
        N("Conv", ["x", "a"], ["h"]),
        N("Mul", ["h", "scale"], ["s"]),
        N("Add", ["s", "shift"], ["t"]),
        N("Add", ["t", "scale"], ["u"]),
        N("Conv", ["u", "b"], ["y"]),
    ]
    constants = {"a": weight(rng, 6, 3, 1, 1), "b": weight(rng, 2, 6, 1, 1)}
    model = model_of(nodes, constants, {"x": [3, 4, 4], "scale": [6, 1, 1], "shift": [6, 1, 1]}, [2, 4, 4])
    made = check(model, rng, {"a"})
    assert [node.input[0] for node in made.graph.node if node.op_type == "Gather"] == ["scale", "shift"]


def test_group_norm_goes_by_whole_groups(rng: np.random.Generator) -> None:
    nodes = [
        N("Conv", ["x", "a", "bias"], ["h"]),
        N("Reshape", ["h", "in_groups"], ["g"]),
        N("InstanceNormalization", ["g", "ones", "zeros"], ["n"]),
        N("Shape", ["h"], ["size"]),
        N("Reshape", ["n", "size"], ["m"]),
        N("Mul", ["m", "gamma"], ["o"]),
        N("Conv", ["o", "b"], ["y"]),
    ]
    constants = {
        "a": weight(rng, 12, 3, 1, 1),
        "bias": weight(rng, 12),
        "in_groups": np.array([0, 4, -1]),
        "ones": np.ones(4, np.float32),
        "zeros": np.zeros(4, np.float32),
        "gamma": weight(rng, 12, 1, 1),
        "b": weight(rng, 2, 12, 1, 1),
    }
    model = model_of(nodes, constants, {"x": [3, 4, 4]}, [2, 4, 4])
    state = trace(model)
    (group,) = groups_of(state, Costs(state))
    assert [unit.channels for unit in group.units] == [3, 3, 3, 3]
    check(model, rng, {"a"})


def test_gated_halves_go_together(rng: np.random.Generator) -> None:
    """Split or sliced halves that are multiplied: channel i of the one goes with channel i of the other."""
    for halves in (
        [N("Split", ["h"], ["p", "q"], axis=-1, num_outputs=2)],
        [N("Slice", ["h", "zero", "five", "last"], ["p"]), N("Slice", ["h", "five", "end", "last"], ["q"])],
    ):
        nodes = [
            N("MatMul", ["x", "a"], ["h"]),
            *halves,
            N("Gelu", ["q"], ["r"]),
            N("Mul", ["p", "r"], ["m"]),
            N("MatMul", ["m", "b"], ["y"]),
        ]
        whole = {"zero": 0, "five": 5, "last": -1, "end": 2**62}
        constants = {"a": weight(rng, 4, 10), "b": weight(rng, 5, 4)} | {key: np.array([value]) for key, value in whole.items()}
        model = model_of(nodes, constants, {"x": [7, 4]}, [7, 4])
        state = trace(model)
        (group,) = groups_of(state, Costs(state))
        assert [unit.channels for unit in group.units] == [2] * 5
        check(model, rng, {"a"})


def test_flattened_channels_and_depthwise(rng: np.random.Generator) -> None:
    nodes = [
        N("Conv", ["x", "a"], ["h"]),
        N("Conv", ["h", "d", "d_bias"], ["k"], group=6),
        N("Reshape", ["k", "flat"], ["f"]),
        N("Gemm", ["f", "b", "b_bias"], ["y"], transB=1),
    ]
    constants = {"a": weight(rng, 6, 3, 1, 1), "d": weight(rng, 6, 1, 3, 3), "d_bias": weight(rng, 6)}
    constants |= {"flat": np.array([-1, 24]), "b": weight(rng, 5, 24), "b_bias": weight(rng, 5)}
    check(model_of(nodes, constants, {"x": [3, 4, 4]}, [5]), rng, {"a"})


def test_sums_outputs_and_shared_weights_stay(rng: np.random.Generator) -> None:
    """A residual sum, channels that leave the network, and a weight that two layers read: only the inner layer's may go."""
    nodes = [
        N("Conv", ["x", "stem"], ["s"]),
        N("Conv", ["s", "inner"], ["h"]),
        N("Relu", ["h"], ["r"]),
        N("Conv", ["r", "back"], ["k"]),
        N("Add", ["s", "k"], ["t"]),
        N("Conv", ["t", "twice"], ["u"]),
        N("Conv", ["u", "twice"], ["v"]),
        N("Softmax", ["v"], ["w"], axis=1),
        N("Conv", ["w", "head"], ["y"]),
    ]
    shapes = {"stem": (4, 3), "inner": (8, 4), "back": (4, 8), "twice": (4, 4), "head": (2, 4)}
    constants = {name: weight(rng, *shape, 1, 1) for name, shape in shapes.items()}
    check(model_of(nodes, constants, {"x": [3, 4, 4]}, [2, 4, 4]), rng, {"inner"})


def test_an_operator_that_mixes_channels_keeps_them(rng: np.random.Generator) -> None:
    for mixes in (N("CumSum", ["h", "one"], ["m"]), N("LayerNormalization", ["h", "ones"], ["m"], axis=1)):
        nodes = [N("Conv", ["x", "a"], ["h"]), mixes, N("Conv", ["m", "b"], ["y"])]
        constants = {
            "a": weight(rng, 6, 3, 1, 1),
            "b": weight(rng, 2, 6, 1, 1),
            "one": np.array(1),
            "ones": np.ones((6, 4, 4), np.float32),
        }
        state = trace(model_of(nodes, constants, {"x": [3, 4, 4]}, [2, 4, 4]))
        assert groups_of(state, Costs(state)) == []
