"""The figures of the zoo's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def test_figures_do_not_depend_on_offset_and_scale(zoo: Any, rng: np.random.Generator) -> None:
    """A signal of small deviation far from zero: neither its mean nor a fixed peak may hide the error."""
    expected = rng.uniform(-1, 1, (3, 5, 40))
    found = expected + 0.1 * rng.standard_normal(expected.shape)
    plain = zoo.measure.psnr(found, expected), zoo.measure.relative_l2(found, expected)
    moved = 7 + 0.02 * found, 7 + 0.02 * expected
    assert zoo.measure.psnr(*moved) == pytest.approx(plain[0], abs=0.11)
    assert zoo.measure.relative_l2(*moved) == pytest.approx(plain[1], rel=1e-6)
    assert plain[1] == pytest.approx(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))
    assert zoo.measure.psnr(expected, expected) is None


def test_rows_of_an_earlier_run_are_used_again(zoo: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    rows = [
        zoo.measure.Row(
            "X", "MIT", [3, 4], {"fp32": None, "int8": 31.25}, {"int8": 0.02}, {"int8": 1.5}, {"int8": 2.0}, ["a note"]
        )
    ]
    assert zoo.measure.load(file, "key") is None
    zoo.measure.save(file, "key", rows)
    assert zoo.measure.load(file, "key") == rows
    assert zoo.measure.load(file, "another") is None
    file.write_text(file.read_text()[:-9])
    assert zoo.measure.load(file, "key") is None


def test_the_table_has_every_row(zoo: Any) -> None:
    full = zoo.measure.Row(
        "A",
        "MIT",
        [8, 50],
        {"fp32": None, "int8": 31.25},
        {"fp32": 0.0, "int8": 0.021},
        {"publisher": 1312.4, "int8": 1.5},
        {"int8": 2},
    )
    lines = zoo.measure.table(
        [full, zoo.measure.Row("B", "MIT", [3], {"fp32": 90.0}, {"fp32": 1e-5}, notes=["int8 was refused"])]
    )
    first, second = lines.splitlines()[2:4]
    assert [cell.strip() for cell in first.split("|")[1:5]] == ["A", "8×50", "equal", "31.2 dB (2.1 %)"]
    assert [cell.strip() for cell in first.split("|")[5:10]] == ["1312 ms", "–", "1.5 ms", "–", "2 MB"]
    assert [cell.strip() for cell in second.split("|")[1:5]] == ["B", "3", "90.0 dB (0.001 %)", "refused"]
    assert "B: int8 was refused" in lines
