"""Finished steps are found again, unfinished ones leave nothing."""

from __future__ import annotations

import os
import time

import pytest

from aigc_edge.compile.steps import DAYS, Steps, fingerprint
from aigc_edge.errors import AigcEdgeError


def _writes(text, calls):
    def make(folder):
        calls.append(text)
        (folder / "made").write_text(text)
        return {"length": len(text)}

    return make


def test_a_step_is_done_once_for_each_key(tmp_path):
    calls: list[str] = []
    steps = Steps(tmp_path)
    place, report, found = steps.once("export", {"hash": 1}, _writes("one", calls))
    assert ((place / "made").read_text(), report, found) == ("one", {"length": 3}, False)
    again, report, found = Steps(tmp_path).once("export", {"hash": 1}, _writes("one", calls))
    assert (again, report, found) == (place, {"length": 3}, True)
    steps.once("export", {"hash": 2}, _writes("two", calls))
    steps.once("other", {"hash": 1}, _writes("three", calls))
    assert calls == ["one", "two", "three"]


def test_without_a_key_it_is_done_each_time(tmp_path):
    calls: list[str] = []
    steps = Steps(tmp_path)
    places = {steps.once("export", None, _writes(text, calls))[0] for text in ("a", "b")}
    assert calls == ["a", "b"]
    assert len(places) == 2


@pytest.mark.parametrize("raised", [KeyboardInterrupt, AigcEdgeError, MemoryError])
def test_what_fails_leaves_nothing_and_what_was_done_stays(tmp_path, raised):
    calls: list[str] = []
    steps = Steps(tmp_path)
    steps.once("a", 1, _writes("done", calls))

    def broken(folder):
        (folder / "half").write_text("x")
        raise raised("no")

    with pytest.raises(raised):
        steps.once("b", 1, broken)
    assert len(os.listdir(tmp_path)) == 1
    assert Steps(tmp_path).once("a", 1, _writes("done", calls))[2]
    steps.forget()
    assert os.listdir(tmp_path) == []


def test_old_leftovers_go(tmp_path):
    place, _, _ = Steps(tmp_path).once("a", 1, _writes("x", []))
    long_ago = time.time() - (DAYS + 1) * 86400
    os.utime(place, (long_ago, long_ago))
    Steps(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_fingerprint_follows_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b", tmp_path / "missing")
    (tmp_path / "b").write_bytes(b"2")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
