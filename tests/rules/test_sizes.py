"""Files stay small: median at most 120 lines, 90 % at most 250, none over 400 without a reason in its first lines."""

from __future__ import annotations

import re
import statistics

from tests.rules.source import ROOT

SUFFIXES = {".py", ".cpp", ".hpp", ".h", ".cu", ".cuh", ".c"}
PLACES = ("aigc_edge", "csrc", "tests", "tools", "benchmarks", "examples")
LIMIT, MOST, MEDIAN = 400, 250, 120
FIRST_LINES = 12
REASON = re.compile(r"\b(over|longer than|more than) 400 lines\b|\bone file because\b", re.IGNORECASE)


def sources() -> dict[str, list[str]]:
    """Path → lines, of every file that is not empty."""
    files = [p for place in PLACES for p in (ROOT / place).rglob("*") if p.suffix in SUFFIXES and p.stat().st_size]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8").splitlines() for p in files}


def too_long_together(lengths: list[int]) -> list[str]:
    """What is wrong with the sizes as a whole."""
    wrong = [f"the median is {statistics.median(lengths)} lines"] if statistics.median(lengths) > MEDIAN else []
    few = sum(length <= MOST for length in lengths) >= 0.9 * len(lengths)
    return wrong if few else [*wrong, f"{sum(length > MOST for length in lengths)} files have more than {MOST} lines"]


def without_a_reason(files: dict[str, list[str]]) -> list[str]:
    """Files over the limit that do not say why in their first lines."""
    long = {path: lines for path, lines in files.items() if len(lines) > LIMIT}
    return [path for path, lines in long.items() if not REASON.search("\n".join(lines[:FIRST_LINES]))]


def test_median_and_ninth_decile() -> None:
    files = sources()
    assert len(files) > 100
    long = sorted(path for path, lines in files.items() if len(lines) > MOST)
    assert too_long_together([len(lines) for lines in files.values()]) == [], long


def test_long_files_say_why() -> None:
    assert without_a_reason(sources()) == [], f"over {LIMIT} lines: split it, or say at its top why it is 'one file because …'"


def test_sizes_that_break_the_rules_are_found() -> None:
    assert too_long_together([MEDIAN] * 9 + [MOST + 1]) == []
    assert too_long_together([MEDIAN + 1] * 10) == ["the median is 121.0 lines"]
    assert too_long_together([MEDIAN] * 8 + [MOST + 1] * 2) == ["2 files have more than 250 lines"]
    reason, line = '"""One table; it is one file because rows refer to each other."""', "x = 1"
    files = {
        "at_the_limit": [line] * LIMIT,
        "silent": [line] * (LIMIT + 1),
        "explained": [reason] + [line] * LIMIT,
        "explained_too_late": [line] * FIRST_LINES + [reason] + [line] * LIMIT,
    }
    assert without_a_reason(files) == ["silent", "explained_too_late"]
