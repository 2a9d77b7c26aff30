"""The share that is done and the time that is left follow from the costs of the stages."""

from __future__ import annotations

import pytest

from aigc_edge.clock import Clock


@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_the_time_left_follows_the_measured_speed(speed):
    now, said = [100.0], []
    clock = Clock({"a": 2, "b": 6, "c": 2}, lambda *report: said.append(report), now=lambda: now[0])
    for stage, share, cost in (("a", 0.5, 1), ("b", 0.5, 5), ("c", 0.0, 8), ("c", 0.5, 9)):
        if not said or said[-1][0] != stage:
            clock.start(stage)
        now[0] = 100 + cost * speed
        clock.advance(share)
        what, done, left = said[-1]
        assert what == stage
        assert done == pytest.approx(cost / 10)
        assert left == pytest.approx((10 - cost) * speed)
    clock.finish()
    assert said[-1] == ("done", 1.0, 0.0)
    assert [report[1] for report in said] == sorted(report[1] for report in said)


def test_steps_of_unknown_number_only_go_forward_and_stay_within():
    said = []
    clock = Clock({"a": 1}, lambda *report: said.append(report[1]), now=lambda: 0.0)
    clock.start("a")
    for first, last in ((0.0, 0.5), (0.5, 1.0)):
        tell = clock.within(first, last)
        for what, total in (("x", 1), ("y", 3), ("z", 40)):
            for done in range(total + 1):
                tell(what, done, total)
                assert first <= said[-1] < last
        assert said[-1] == pytest.approx(last - (last - first) * 0.4**3)
    assert said == sorted(said)


def test_without_a_report_nothing_happens_and_unknown_stages_cost_nothing():
    Clock({}).start("a")
    said = []
    clock = Clock({"a": 1}, lambda *report: said.append(report), now=lambda: 0.0)
    clock.start("other")
    clock.start("a")
    assert [report[:2] for report in said] == [("other", 0.0), ("a", 0.0)]
