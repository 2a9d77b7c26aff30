"""The search lets the most sensitive layers fall back to float, and no others."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from aigc_edge.compress.evaluation.fallback import FallbackBudget, Ranking, choose_layers, rank_layers
from aigc_edge.compress.evaluation.search import Trial, most_sensitive_layers, search
from aigc_edge.compress.formats.int8 import Int8
from aigc_edge.compress.graphs.graph import Layer, initialisers, load
from aigc_edge.errors import BudgetError

DESCRIBE = "{:.1f} dB".format


def _layers(macs: Sequence[int]) -> list[Layer]:
    return [Layer(f"l{i}", "Conv", f"o{i}", f"i{i}", f"w{i}", None, 0, f"o{i}", m, 4 * m) for i, m in enumerate(macs)]


class _Additive:
    """Errors that add up exactly; counts its measurements."""

    def __init__(self, errors: dict[str, float]) -> None:
        self.errors = errors
        self.count = 0

    def __call__(self, layers: Sequence[Layer]) -> float:
        self.count += 1
        return sum(self.errors[layer.name] for layer in layers)


def _search(errors: list[float], macs: list[int], target: float, share: float = 0.5) -> tuple[set[str], float, int]:
    layers = _layers(macs)
    measure = _Additive({layer.name: error for layer, error in zip(layers, errors, strict=True)})
    ranking = rank_layers(layers, measure, sum(errors), 100, lambda done, total: None)
    measure.count = 0
    kept, error = choose_layers(layers, ranking, measure, FallbackBudget(target, share, DESCRIBE, "30.0 dB"))
    assert error == pytest.approx(measure(kept))
    assert error <= target
    return {layer.name for layer in layers} - {layer.name for layer in kept}, error, measure.count


def test_nothing_falls_back_without_need() -> None:
    assert _search([1.0, 2.0, 3.0], [5, 5, 5], 6.0)[0] == set()


def test_the_planted_layer_falls_back() -> None:
    restored, _, measured = _search([0.1, 50.0, 0.1, 0.2], [10, 10, 10, 10], 1.0)
    assert restored == {"l1"}
    assert measured <= 3


def test_cheap_layers_go_first_and_unneeded_ones_return() -> None:
    # l0 costs nothing and errs a little, l1 errs most: l0 alone is not enough, and not needed beside l1.
    assert _search([0.5, 10.0, 0.1, 0.1], [1, 100, 100, 100], 0.9)[0] == {"l1"}
    # Of two that err the same, the cheaper is taken.
    assert _search([5.0, 5.0, 0.1], [900, 100, 900], 5.2)[0] == {"l1"}


def test_random_problems_meet_their_target(rng: np.random.Generator) -> None:
    for _ in range(50):
        errors = np.exp(rng.normal(0, 2, 12)).tolist()
        macs = rng.integers(1, 1000, 12).tolist()
        target = sum(errors) * float(rng.uniform(0.05, 1.2))
        restored, error, measured = _search(errors, macs, target, share=0.0)
        assert measured <= 26
        for name in restored:  # none of them could stay in 8 bits
            assert error + errors[int(name[1:])] > target


def test_a_budget_out_of_reach_names_the_layers() -> None:
    with pytest.raises(
        BudgetError,
        match=r"int8 reaches -?\d+\.\d dB.*30\.0 dB was requested.*most sensitive layers are l2 \(80 % of the error\), l1",
    ):
        _search([0.05, 0.15, 0.8], [10, 10, 100], 0.004)


def test_what_overflows_together_may_not_alone() -> None:
    layers = _layers([1, 1, 1, 1])
    measure = _Additive({"l0": 0.5, "l1": 0.1, "l2": 0.1, "l3": 0.1})
    ranking = rank_layers(layers, measure, np.inf, 9, lambda done, total: None)
    kept, error = choose_layers(layers, ranking, measure, FallbackBudget(0.4, 0.5, DESCRIBE))
    assert [layer.name for layer in kept] == ["l1", "l2", "l3"]
    assert error == pytest.approx(0.3)


def test_overflow_is_named() -> None:
    assert most_sensitive_layers({"a": 1.0, "b": np.inf}) == "b"
    assert most_sensitive_layers({"a": 1.0, "b": 3.0}) == "b (75 % of the error), a (25 % of the error)"


def test_the_last_candidate_that_held_is_returned() -> None:
    """The strategy is sent every result and decides when to stop; when none holds, the refusal gets the first and last."""
    heard: list[bool] = []

    def numbers(most: int) -> Generator[int, bool, None]:
        for number in range(1, most + 1):
            heard.append((yield number))

    def refuse(first: Trial[int, int], last: Trial[int, int]) -> BudgetError:
        return BudgetError(f"tried {first.candidate} to {last.candidate}")

    best = search(numbers(5), lambda number: number % 3, lambda result: result == 1, refuse)
    assert (best.candidate, best.result, best.held) == (4, 1, True)
    assert heard == [True, False, False, True, False]
    with pytest.raises(BudgetError, match="tried 1 to 2"):
        search(numbers(2), lambda number: number, lambda result: result > 2, refuse)


def test_better_than_requested_where_that_is_cheap(make: dict, tmp_path: Path) -> None:
    """A small layer with the largest error falls back although the budget holds; a large one does not."""
    rng = np.random.default_rng(0)  # with some weights another layer errs more
    for size, falls_back in ((2, True), (64, False)):
        nodes = [
            helper.make_node("MatMul", ["x", "good.weight"], ["a"]),
            helper.make_node("MatMul", ["a", "down.weight"], ["b"]),
            helper.make_node("Mul", ["b", "spread"], ["c"]),
            helper.make_node("MatMul", ["c", "bad.weight"], ["y"]),
        ]
        spread = np.ones(size, np.float32)
        spread[0] = 40  # one channel fills the range, the others have three bits left
        bad = rng.standard_normal((size, 64)).astype(np.float32) * np.float32(0.3 / size**0.5)
        bad[0] /= 400
        weights = {
            "good.weight": rng.standard_normal((64, 64)).astype(np.float32) * np.float32(0.125),
            "down.weight": rng.standard_normal((64, size)).astype(np.float32) * np.float32(0.125),
            "spread": spread,
            "bad.weight": bad,
        }
        net = make["decoder"]("cheap", nodes, weights, [64], [64])
        report = Int8(psnr=10, aim=38).convert(net.write(tmp_path), tmp_path / "int8.onnx", net.calibration(64)).to_json()
        assert (report["nodes"]["bad"]["format"] == "fp32") == falls_back
        assert report["psnr"] >= (38 if falls_back else 10)
        assert report["all_psnr"] < 38


def test_many_layers_are_ranked_in_groups() -> None:
    layers = _layers([1] * 10)
    measure = _Additive({layer.name: float(i) for i, layer in enumerate(layers)})
    ranking = rank_layers(layers, measure, 45.0, 4, lambda done, total: None)
    assert measure.count == 4
    assert sum(ranking.alone.values()) == pytest.approx(45)
    assert set(ranking.alone) == {layer.name for layer in layers}
    assert ranking.alone["l9"] > ranking.alone["l0"]
    assert Ranking(10.0, {"a": 1.0, "b": 3.0}).predicted(layers[:0]) == 0


def test_a_real_outlier(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """Three layers; the second one's input has a channel a thousand times larger than the others, which its weights ignore."""
    size = rng.uniform(0.5, 1.5, 8).astype(np.float32)
    size[3] *= 1000
    nodes = [
        helper.make_node("MatMul", ["x", "first.weight"], ["a"]),
        helper.make_node("Mul", ["a", "size"], ["b"]),
        helper.make_node("MatMul", ["b", "second.weight"], ["c"]),
        helper.make_node("MatMul", ["c", "third.weight"], ["y"]),
    ]
    second = rng.standard_normal((8, 8)).astype(np.float32) * 0.3
    second[3] *= 1e-6
    weights = {name: rng.standard_normal((8, 8)).astype(np.float32) * 0.3 for name in ("first.weight", "third.weight")}
    net = make["decoder"]("outlier", nodes, weights | {"size": size, "second.weight": second}, [8], [8])
    report = (
        Int8(psnr=30, aim=0, min_share=0.3).convert(net.write(tmp_path), tmp_path / "int8.onnx", net.calibration(64)).to_json()
    )
    formats = {name: node["format"] for name, node in report["nodes"].items()}
    assert formats["second"] == "fp32"
    assert "int8" in formats.values()  # with some random weights one more has to go back
    assert report["psnr"] >= 30 > report["all_psnr"]
    assert report["macs_share"] == pytest.approx(sum(format == "int8" for format in formats.values()) / 3)
    assert max(report["nodes"], key=lambda name: report["nodes"][name]["error"]) == "second"
    assert "second.weight" in initialisers(load(tmp_path / "int8.onnx"))
    with pytest.raises(BudgetError, match=r"the most sensitive layers are second \(\d+ % of the error\)"):
        Int8(psnr=30, min_share=0.9).convert(tmp_path / "outlier.onnx", tmp_path / "other.onnx", net.calibration(64))
    assert not (tmp_path / "other.onnx").exists()
