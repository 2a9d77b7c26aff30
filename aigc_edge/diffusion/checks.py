"""Validation of arguments: each function returns the valid value or raises a ProgramError that says what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from aigc_edge.errors import AigcEdgeError, ProgramError
from aigc_edge.registry import Registry

T = TypeVar("T")
FLOAT32_MAX = 3.4028234663852886e38  # executors compute in float32: a larger number would become infinite there
_MAX_DEPTH = 32


def show(value: object) -> str:
    """`value` as short text for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(value: Any, what: str, low: float = -FLOAT32_MAX, high: float = FLOAT32_MAX) -> float:
    """A finite number (no bool, no text) within low … high, as float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ProgramError(f"{what} must be a number, not {show(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ProgramError(f"{what} must be a finite number, not {show(value)}")
    if not low <= result <= high:
        if (low, high) == (-FLOAT32_MAX, FLOAT32_MAX):
            raise ProgramError(f"{what} must fit float32 (up to 3.4e38), not {show(value)}")
        raise ProgramError(f"{what} must be {_span(low, high)}, not {show(value)}")
    return result


def _span(low: float, high: float) -> str:
    if high == FLOAT32_MAX:
        return f"at least {low:g}"
    return f"at most {high:g}" if low == -FLOAT32_MAX else f"within {low:g} … {high:g}"


def positive(value: float, what: str) -> float:
    """A number greater than 0."""
    if not number(value, what) > 0:
        raise ProgramError(f"{what} must be greater than 0, not {show(value)}")
    return value


def not_negative(**values: float) -> None:
    """Raise ProgramError for a number below 0, by its name."""
    for name, value in values.items():
        number(value, name, 0.0)


def choice(value: Any, what: str, *choices: str) -> None:
    """Raise ProgramError for a value that is none of the choices."""
    if value not in choices:
        raise ProgramError(f"{what} must be {' or '.join(map(repr, choices))}, not {show(value)}")


def integer(value: Any, what: str, low: int, high: int) -> int:
    """A whole number (no bool) within low … high, as int."""
    try:
        result = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        result = None
    if result is None or not low <= result <= high:
        raise ProgramError(f"{what} must be a whole number within {low} … {high}, not {show(value)}")
    return result


def numbers(values: Any, count: int | None, what: str) -> tuple[float, ...]:
    """`count` finite numbers (any count when None), from a list, tuple or array."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise ProgramError(f"{what} must be a list of numbers, not {show(values)}")
    if count is not None and len(values) != count:
        raise ProgramError(f"{what} must hold {count} numbers, it holds {len(values)}")
    # The common case first: a program is built whenever a caller changes the number of steps.
    return tuple([v if type(v) is float and -FLOAT32_MAX <= v <= FLOAT32_MAX else number(v, what) for v in values])


def pair(values: Any, what: str) -> tuple[float, float]:
    """Two finite numbers."""
    low, high = numbers(values, 2, what)
    return low, high


def matrix(values: Any, rows: int, columns: int, what: str) -> tuple[tuple[float, ...], ...]:
    """`rows` lists of `columns` finite numbers."""
    if not isinstance(values, (list, tuple, np.ndarray)) or len(values) != rows:
        size = f"{len(values)} of them" if isinstance(values, (list, tuple, np.ndarray)) else show(values)
        raise ProgramError(f"{what} must be {rows} lists of {columns} numbers, not {size}")
    return tuple([numbers(row, columns, what) for row in values])


def members(value: Any, required: Collection[str], optional: Collection[str], what: str) -> dict[str, Any]:
    """The members of a JSON object that has every required one and no unknown one."""
    if not isinstance(value, Mapping):
        raise ProgramError(f"{what} must be a JSON object, not {show(value)}")
    allowed = [*required, *optional]
    for key in value:
        if key not in allowed:
            raise ProgramError(f"{what} has an unknown member {show(key)}: allowed are {', '.join(allowed)}")
    missing = [key for key in required if key not in value]
    if missing:
        raise ProgramError(f"{what} lacks {', '.join(missing)}")
    return dict(value)


def plain(value: Any, what: str, depth: int = 0) -> Any:
    """A deep copy of a JSON value; raises ProgramError for values that JSON cannot hold."""
    if depth > _MAX_DEPTH:
        raise ProgramError(f"{what} is nested more than {_MAX_DEPTH} deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, what, depth + 1) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, what, depth + 1) for key, item in value.items()}
    raise ProgramError(f"{what} must hold JSON values only, not {show(value)}")


def look_up(registry: Registry[T], name: Any) -> T:
    """The entry `name` of a registry; raises ProgramError, which lists the known names."""
    if not isinstance(name, str):
        raise ProgramError(f"the name of a {registry.kind} must be text, not {show(name)}: choose one of {', '.join(registry)}")
    try:
        return registry[name]
    except AigcEdgeError as error:
        raise ProgramError(str(error)) from None
