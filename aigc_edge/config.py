"""Settings: frozen dataclasses that are parsed from JSON or keyword arguments and validate their values."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from aigc_edge.errors import AigcEdgeError

T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A dataclass field with a help text and its allowed values: low ≤ value ≤ high, value > above, one of choices."""
    metadata = {"help": help, "low": low, "high": high, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def names(cls: type) -> list[str]:
    """The names of the settings of a dataclass, in order."""
    return [field.name for field in dataclasses.fields(cls)]


def from_dict(cls: type[T], values: dict[str, Any], what: str = "settings") -> T:
    """Build the dataclass `cls` from `values`; converting lists to tuples and integers to floats where the field requires it.

    Raises AigcEdgeError for an unknown or missing name, or a value of the wrong type or outside the allowed range.
    """
    if not isinstance(values, dict):
        raise AigcEdgeError(f"{what} must be an object of names and values, not {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise AigcEdgeError(f"unknown {what} {', '.join(sorted(map(str, unknown)))}: choose from {', '.join(fields)}")
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if needed:
        raise AigcEdgeError(f"{what} lack {', '.join(needed)}: add them")
    hints = typing.get_type_hints(cls)
    return cls(
        **{name: _validated(f"{what}: {name}", value, hints[name], fields[name].metadata) for name, value in values.items()}
    )


def to_dict(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values (tuples become lists)."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(settings).items()}


def _validated(what: str, value: Any, hint: Any, limits: typing.Mapping[str, Any]) -> Any:
    value = _converted(what, value, hint)
    if value is None:
        return value
    low, high, above, choices = (limits.get(key) for key in ("low", "high", "above", "choices"))
    for item in value if isinstance(value, tuple) else (value,):
        if choices is not None and item not in choices:
            raise AigcEdgeError(f"{what} is {item!r}: choose one of {', '.join(map(str, choices))}")
        if low is not None and not item >= low:
            raise AigcEdgeError(f"{what} is {item}: give a value of at least {low}")
        if above is not None and not item > above:
            raise AigcEdgeError(f"{what} is {item}: give a value above {above}")
        if high is not None and not item <= high:
            raise AigcEdgeError(f"{what} is {item}: give a value of at most {high}")
    return value


def _converted(what: str, value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
        origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise AigcEdgeError(f"{what} is {value!r}: give a list")
        return tuple(_converted(what, item, typing.get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:  # not isinstance: True is not a number here
        raise AigcEdgeError(f"{what} is {value!r}: give a value of type {hint.__name__}")
    return value
