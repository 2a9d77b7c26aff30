"""Settings from JSON: every wrong value is a sentence, every right one comes back the same."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_edge.config import from_dict, names, option, to_dict
from aigc_edge.errors import AigcEdgeError


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int = option(help="needed", low=1)
    rate: float = option(0.5, "a share", above=0, high=1)
    widths: tuple[int, ...] = option((8, 16), "channels", low=4)
    mode: str = option("auto", "how", choices=("auto", "fast"))
    flip: bool = option(False, "mirror")
    limit: float | None = option(None, "largest value", low=0)


@given(
    size=st.integers(1, 10**9),
    rate=st.floats(0, 1, exclude_min=True),
    widths=st.lists(st.integers(4, 10**6), max_size=5),
    mode=st.sampled_from(["auto", "fast"]),
    flip=st.booleans(),
    limit=st.none() | st.floats(0, 1e300),
)
def test_json_round_trip(**values: Any) -> None:
    settings = from_dict(Settings, values)
    assert from_dict(Settings, json.loads(json.dumps(to_dict(settings)))) == settings
    assert settings.widths == tuple(values["widths"])


def test_defaults_and_names() -> None:
    assert from_dict(Settings, {"size": 3}) == Settings(3, 0.5, (8, 16), "auto", False, None)
    assert names(Settings) == ["size", "rate", "widths", "mode", "flip", "limit"]


def test_whole_numbers_become_floats() -> None:
    rate = from_dict(Settings, {"size": 3, "rate": 1, "limit": 7})
    assert (type(rate.rate), type(rate.limit)) == (float, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lack size: add them"),
        ({"size": 3, "sise": 4, "zoo": 1}, "unknown things sise, zoo: choose from size, rate"),
        ({"size": 0}, "things: size is 0: give a value of at least 1"),
        ({"size": True}, "size is True: give a value of type int"),
        ({"size": 3.0}, "give a value of type int"),
        ({"size": "3"}, "size is '3': give a value of type int"),
        ({"size": 3, "rate": 0}, "rate is 0.0: give a value above 0"),
        ({"size": 3, "rate": 1.5}, "at most 1"),
        ({"size": 3, "rate": math.nan}, "rate is nan"),
        ({"size": 3, "rate": None}, "rate is None: give a value of type float"),
        ({"size": 3, "widths": [8, 2]}, "widths is 2: give a value of at least 4"),
        ({"size": 3, "widths": [8, "x"]}, "widths is 'x': give a value of type int"),
        ({"size": 3, "widths": 8}, "widths is 8: give a list"),
        ({"size": 3, "mode": "slow"}, "mode is 'slow': choose one of auto, fast"),
        ({"size": 3, "flip": 1}, "flip is 1: give a value of type bool"),
        ({"size": 3, "limit": -1}, "limit is -1.0: give a value of at least 0"),
        ([1], "things must be an object of names and values, not list"),
    ],
)
def test_what_is_wrong_is_said(values: Any, message: str) -> None:
    with pytest.raises(AigcEdgeError, match=message) as caught:
        from_dict(Settings, values, "things")
    assert "\n" not in str(caught.value)
