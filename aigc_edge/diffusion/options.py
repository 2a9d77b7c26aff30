"""Options of solvers, predictions and schedules: their keyword-only parameters, with types from the annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aigc_edge.diffusion import checks
from aigc_edge.errors import ProgramError

Parameters = Mapping[str, inspect.Parameter]


@functools.cache
def parameters(function: Callable[..., Any]) -> Parameters:
    """The keyword-only parameters of a function or dataclass by name."""
    return {p.name: p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


@functools.cache
def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ProgramError(f"{what} must be text, not {checks.show(value)}")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ProgramError(f"{what} must be true or false, not {checks.show(value)}")
    return value


_CONVERT: dict[str, Callable[[Any, str], Any]] = {
    "float": checks.number,
    "int": lambda value, what: checks.integer(value, what, -(2**31), 2**31 - 1),
    "bool": _flag,
    "str": _text,
    "tuple": lambda value, what: checks.numbers(value, None, what),
}


def _convert(parameter: inspect.Parameter, value: Any) -> Any:
    annotation = parameter.annotation
    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if value is None and "None" in str(annotation):
        return None
    convert = _CONVERT.get(kind.split("[")[0].split("|")[0].strip())
    return convert(value, parameter.name) if convert else value


def bind(owner: str, known: Parameters, values: Mapping[str, Any], others: Collection[str] = ()) -> dict[str, Any]:
    """The options `values`, checked and converted by the annotations of `known`; the owner itself checks their ranges.

    Raises ProgramError for an unknown or missing option or one of the wrong type; it lists what `owner` takes, with `others`,
    which are handled elsewhere.
    """
    for name in values:
        if name not in known:
            takes = ", ".join([*known, *others]) or "no options"
            raise ProgramError(f"unknown option {checks.show(name)} of {owner}: it takes {takes}")
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in values]
    if missing:
        raise ProgramError(f"{owner} needs {', '.join(missing)}")
    return {name: _convert(known[name], value) for name, value in values.items()}
