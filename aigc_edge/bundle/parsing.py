"""JSON values that know their path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from aigc_edge.errors import BundleError


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
