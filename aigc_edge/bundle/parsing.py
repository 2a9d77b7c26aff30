"""Strict JSON, and values that know their path: the same rules as the reader in csrc/core/json.cpp."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from aigc_edge.errors import BundleError

MAX_BYTES, MAX_DEPTH = 64 << 20, 64


def parse_json(text: bytes, what: str) -> Any:
    """The JSON value of `text`: UTF-8, unique names, finite numbers, at most 64 MiB and 64 levels.

    Raises BundleError that begins with `what`.
    """
    if len(text) > MAX_BYTES:
        raise BundleError(f"{what} is not valid JSON (it has more than {MAX_BYTES >> 20} MiB)")
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite, parse_int=_integer
        )
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # refuses half a surrogate pair
    except RecursionError:
        raise BundleError(f"{what} is not valid JSON (nested too deep)") from None
    except ValueError as error:  # UnicodeError too
        raise BundleError(f"{what} is not valid JSON ({error})") from None
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH + 1:
        raise BundleError(f"{what} is not valid JSON (nested too deep)")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return value


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    underflow = value == 0 and any(digit in "123456789" for digit in digits.lower().partition("e")[0])
    if not math.isfinite(value) or underflow:
        raise ValueError("a number is out of range")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 18:
        _finite(digits)
    return int(digits) if len(digits) <= 4000 else 0  # _finite has refused those


def _depth(value: Any) -> int:
    """Levels of nesting, a scalar being one."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


class Value:
    """A JSON value and its path in the document; every accessor raises BundleError naming the path when the type is wrong."""

    __slots__ = ("path", "raw")

    def __init__(self, raw: Any, path: str) -> None:
        self.raw, self.path = raw, path

    def error(self, requirement: str) -> BundleError:
        """The error that says what is required at this path."""
        return BundleError(f"{self.path} {requirement}")

    def object(self) -> dict[str, Any]:
        """The members of an object, as plain JSON."""
        if not isinstance(self.raw, dict):
            raise self.error("must be an object")
        return self.raw

    def members(self) -> Iterator[tuple[str, Value]]:
        """The members of an object by name."""
        return ((name, Value(raw, f"{self.path}.{name}")) for name, raw in self.object().items())

    def items(self) -> list[Value]:
        """The items of a list."""
        if not isinstance(self.raw, list):
            raise self.error("must be a list")
        return [Value(raw, f"{self.path}[{index}]") for index, raw in enumerate(self.raw)]

    def __getitem__(self, name: str) -> Value:
        """A member that must be present."""
        if name not in self.object():
            raise BundleError(f"{self.path}.{name} must be present")
        return Value(self.raw[name], f"{self.path}.{name}")

    def get(self, name: str) -> Value | None:
        """A member; None when it is missing or null."""
        raw = self.object().get(name)
        return None if raw is None else Value(raw, f"{self.path}.{name}")

    def string(self) -> str:
        """A string."""
        if not isinstance(self.raw, str):
            raise self.error("must be a string")
        return self.raw

    def number(self) -> float:
        """A number as it is written, an int or a float."""
        if isinstance(self.raw, bool) or not isinstance(self.raw, (int, float)):
            raise self.error("must be a number")
        return self.raw

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`; 2.0 is one."""
        value = self.number()
        if value != math.floor(value) or not low <= value <= high:
            raise self.error(f"must be a whole number from {low} to {high}")
        return int(value)

    def strings(self) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(item.string() for item in self.items())


def is_safe(name: str) -> bool:
    """Whether a relative name stays inside a bundle."""
    return "\\" not in name and "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
