"""Finished stages are cached, unfinished ones leave nothing."""

from __future__ import annotations

import os
import time

import pytest

from aigc_edge.compile.stage_cache import DAYS, StageCache, fingerprint
from aigc_edge.errors import AigcEdgeError


def _writes(text, calls):
    def create(folder):
        calls.append(text)
        (folder / "output").write_text(text)
        return {"length": len(text)}

    return create


def test_a_stage_is_run_once_for_each_key(tmp_path):
    calls: list[str] = []
    cache = StageCache(tmp_path)
    folder, report, cached = cache.get_or_create("export", {"hash": 1}, _writes("one", calls))
    assert ((folder / "output").read_text(), report, cached) == ("one", {"length": 3}, False)
    again, report, cached = StageCache(tmp_path).get_or_create("export", {"hash": 1}, _writes("one", calls))
    assert (again, report, cached) == (folder, {"length": 3}, True)
    cache.get_or_create("export", {"hash": 2}, _writes("two", calls))
    cache.get_or_create("other", {"hash": 1}, _writes("three", calls))
    assert calls == ["one", "two", "three"]


@pytest.mark.parametrize("file", ["output", "done.json", "files.json"])
@pytest.mark.parametrize("damage", [lambda data: data[:-2], lambda data: bytes(len(data)), lambda data: data.swapcase()])
def test_a_damaged_stage_is_run_again(tmp_path, file, damage):
    calls: list[str] = []
    for _ in range(2):
        folder, report, cached = StageCache(tmp_path).get_or_create("export", 1, _writes("one", calls))
        assert ((folder / "output").read_text(), report, cached) == ("one", {"length": 3}, False)
        (folder / file).write_bytes(damage((folder / file).read_bytes()))
    assert calls == ["one", "one"]


def test_without_a_key_it_is_run_each_time(tmp_path):
    calls: list[str] = []
    cache = StageCache(tmp_path)
    places = {cache.get_or_create("export", None, _writes(text, calls))[0] for text in ("a", "b")}
    assert calls == ["a", "b"]
    assert len(places) == 2


@pytest.mark.parametrize("raised", [KeyboardInterrupt, AigcEdgeError, MemoryError])
def test_what_fails_leaves_nothing_and_what_was_done_stays(tmp_path, raised):
    calls: list[str] = []
    cache = StageCache(tmp_path)
    cache.get_or_create("a", 1, _writes("done", calls))

    def broken(folder):
        (folder / "half").write_text("x")
        raise raised("no")

    with pytest.raises(raised):
        cache.get_or_create("b", 1, broken)
    assert len(os.listdir(tmp_path)) == 1
    assert StageCache(tmp_path).get_or_create("a", 1, _writes("done", calls))[2]
    cache.remove_used()
    assert os.listdir(tmp_path) == []


def test_old_leftovers_go(tmp_path):
    folder, _, _ = StageCache(tmp_path).get_or_create("a", 1, _writes("x", []))
    long_ago = time.time() - (DAYS + 1) * 86400
    os.utime(folder, (long_ago, long_ago))
    StageCache(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_fingerprint_follows_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b", tmp_path / "missing")
    (tmp_path / "b").write_bytes(b"2")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
