"""What channels carry and the weights that make up for lost ones, against direct computation on the layers' inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from aigc_edge.compress.channels.pruner import ChannelPruner
from aigc_edge.compress.channels.refit import EVALUATIONS, RIDGE, InputMoments
from aigc_edge.compress.channels.trace import trace
from aigc_edge.compress.channels.units import Costs, groups_of
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.graphs import graph
from aigc_edge.errors import AigcEdgeError


def activations(model: onnx.ModelProto, tensor: str, records: list[Any]) -> np.ndarray:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend([onnx.ValueInfoProto(name=tensor)])
    network = graph.Network(watched)
    return np.concatenate([network(record.inputs)[-1] for record in records])


@pytest.fixture
def seen(make: dict, rng: np.random.Generator) -> Any:
    """Gemm, ReLU, Gemm: a network whose every row of activations fits into the sample."""
    net = make["products"](rng)
    return net, HeldOutReference(net.model, net.calibration(2 * EVALUATIONS), calibrates=True, threads=1)


def test_energy_is_activation_times_weight(seen: Any) -> None:
    net, reference = seen
    state = trace(net.model)
    costs = Costs(state)
    groups = {group.name: group for group in groups_of(state, costs)}
    InputMoments(state, reference.calibration_records, 1).weigh(list(groups.values()), costs)
    x = activations(net.model, "r", reference.calibration_records).astype(np.float64)
    weight = graph.initialisers(net.model)["b.weight"].astype(np.float64)
    carried = np.square(x).mean(0) * np.square(weight).sum(1)
    made = costs.produced[next(i for i, layer in costs.layers.items() if layer.name == "a")].tolist()
    wanted = dict(zip(made, carried / carried.sum(), strict=True))
    assert {unit.root: pytest.approx(unit.energy, rel=1e-3) for unit in groups["a"].units} == wanted


def test_refit_is_the_least_squares_answer(seen: Any) -> None:
    net, reference = seen
    state = trace(net.model)
    costs = Costs(state)
    (group, _) = groups_of(state, costs)
    inputs = InputMoments(state, reference.calibration_records, 1)
    removed = {unit.root for unit in group.units[:3]}
    found = inputs.refitted(removed)
    index = next(i for i, layer in costs.layers.items() if layer.name == "b")
    x = activations(net.model, "r", reference.calibration_records).astype(np.float64)
    weight = graph.initialisers(net.model)["b.weight"].astype(np.float64)
    mask = ~np.isin(costs.read[index], sorted(removed))
    # Towards the weights there were: as many more equations as there are channels.
    pull = np.sqrt(RIDGE * np.square(x[:, mask]).mean(0).mean() * len(x)) * np.eye(mask.sum())
    left = np.vstack([x[:, mask], pull])
    right = np.vstack([x @ weight, pull @ weight[mask]])
    wanted = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(found[index, 1][mask], wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
    assert not found[index, 1][~mask].any()
    plain = np.square(x[:, mask] @ weight[mask] - x @ weight).sum()
    assert np.square(x[:, mask] @ found[index, 1][mask] - x @ weight).sum() < 0.9 * plain


def test_pruner_spares_what_carries_most_and_says_what_cannot_go(seen: Any) -> None:
    net, reference = seen
    pruner = ChannelPruner(net.model, reference, lambda done, total: None)
    removed = pruner.choose(0.3, 8)
    assert 0.3 <= 1 - pruner.costs.macs(removed) / pruner.total < 0.5
    for group in pruner.groups:
        gone = [unit.energy for unit in group.units if unit.root in removed]
        left = [unit.energy for unit in group.units if unit.root not in removed]
        assert left
        assert max(gone, default=0.0) <= min(left)
    assert sum(pruner.predicted_errors(removed).values()) > 0
    with pytest.raises(AigcEdgeError, match=r"share=0\.9 of the multiply-adds cannot be pruned: inner channels hold 0\.\d\d"):
        pruner.choose(0.9, 8)


def test_nothing_inside(make: dict, rng: np.random.Generator) -> None:
    net = make["conv"](rng)
    with pytest.raises(AigcEdgeError, match="no inner channels"):
        ChannelPruner(
            net.model, HeldOutReference(net.model, net.calibration(2), calibrates=True, threads=1), lambda done, total: None
        )
