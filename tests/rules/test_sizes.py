"""Files stay small: median at most 120 lines, 90 % at most 250, none over 400 without a reason in its first lines."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".py", ".cpp", ".hpp", ".h", ".cu", ".cuh", ".c"}
PLACES = ("aigc_edge", "csrc", "tests", "tools", "benchmarks")
LIMIT, MOST, MEDIAN = 400, 250, 120
REASON = re.compile(r"\b(over|longer than|more than) 400 lines\b|\bone file because\b", re.IGNORECASE)


def lengths() -> dict[str, int]:
    files = [p for place in PLACES for p in (ROOT / place).rglob("*") if p.suffix in SUFFIXES and p.stat().st_size]
    return {p.relative_to(ROOT).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in files}


def test_median_and_ninth_decile() -> None:
    found = sorted(lengths().values())
    assert statistics.median(found) <= MEDIAN
    assert sum(n <= MOST for n in found) >= 0.9 * len(found), [name for name, n in lengths().items() if n > MOST]


@pytest.mark.parametrize("name", [name for name, n in lengths().items() if n > LIMIT] or [None])
def test_long_files_say_why(name: str | None) -> None:
    if name is None:
        return  # there is none
    first = "\n".join((ROOT / name).read_text(encoding="utf-8").splitlines()[:12])
    assert REASON.search(first), f"{name} has over {LIMIT} lines: split it, or say at its top why it is 'one file because …'"
