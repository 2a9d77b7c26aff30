"""The order of interleaved rounds, and what is timed."""

from __future__ import annotations

import collections
import gc
import itertools

import pytest

from aigc_edge.bench.measure import interleaved, rotation


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_rotation_is_fair(count: int) -> None:
    names = list(range(count))
    orders = [rotation(names, turn) for turn in range(2 * count)]
    assert all(sorted(order) == names for order in orders)
    for place in range(count):  # over a whole cycle everybody stands at every place equally often
        assert set(collections.Counter(order[place] for order in orders).values()) == {2}
    followers = collections.Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert all(followers[a, b] == followers[b, a] for a, b in followers)  # nobody always follows the same other


def test_rounds_are_interleaved_and_warm_up_is_not_kept() -> None:
    seen: list[tuple[str, int]] = []
    after: list[str] = []
    calls = {name: (lambda turn, name=name: seen.append((name, turn))) for name in "abc"}
    seconds = interleaved(calls, 4, warmup=2, after=after.append)
    assert [turn for _, turn in seen] == [turn for turn in range(-2, 4) for _ in "abc"]
    assert [name for name, turn in seen if turn >= 0] == after
    assert set(seconds) == set(calls)
    assert all(len(times) == 4 and min(times) >= 0 for times in seconds.values())


def test_garbage_is_not_collected_while_a_call_runs() -> None:
    assert gc.isenabled()
    states: list[bool] = []
    interleaved({"a": lambda turn: states.append(gc.isenabled())}, 3, warmup=0)
    assert states == [False] * 3
    assert gc.isenabled()


def test_a_failing_call_is_raised_and_leaves_the_collector_on() -> None:
    def fail(turn: int) -> None:
        raise RuntimeError("as planned")

    with pytest.raises(RuntimeError, match="as planned"):
        interleaved({"a": fail}, 1, warmup=0)
    assert gc.isenabled()
