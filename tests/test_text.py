"""Numbers for people against decimal arithmetic, tables against their definition."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import pytest

from aigc_edge import text


def test_digits_keep_three_significant_ones(rng: np.random.Generator) -> None:
    for value in (rng.choice([-1, 1], 500) * 10 ** rng.uniform(-6, 6, 500)).tolist():
        shown = text.digits(value)
        assert "e" not in shown
        wanted = Context(prec=3, rounding=ROUND_HALF_EVEN).create_decimal(Decimal(value))
        if abs(value) < 999.5:
            assert Decimal(shown) == wanted
        else:
            assert Decimal(shown) == Decimal(value).to_integral_value(ROUND_HALF_EVEN)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (9.996, "10.0"), (99.96, "100"), (0.09996, "0.100"), (1.0, "1.00"), (999.6, "1000"), (12345, "12345")],
)
def test_digits_at_the_borders(value: float, shown: str) -> None:
    assert text.digits(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (2_826_840, "2.83 MB"), (999_600, "1.00 MB"), (5e12, "5.00 TB")],
)
def test_sizes(count: float, shown: str) -> None:
    assert text.size(count) == shown


def test_columns_line_up() -> None:
    shown = text.table(["name", "n"], [["a", "1"], ["long name", "100"]], right=[1]).splitlines()
    assert shown == ["  name         n", "  a            1", "  long name  100"]
