"""Types of option values; their errors say what was given and what is allowed."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import check_regular

Number = TypeVar("Number", int, float)
SEEDS = 2**64
UNCONDITIONAL = -1
ROLES = ("sample", "timestep", "class")


def _bounded(kind: Callable[[str], Number], what: str, low: Number, high: Number) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        allowed = f"{what} from {low} to {high}" if high < math.inf else f"{what} of at least {low}"
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} was given, {allowed} is allowed") from None
        if not low <= value <= high:  # also NaN
            raise argparse.ArgumentTypeError(f"{text} was given, {allowed} is allowed")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""
    return _bounded(int, "a whole number", low, high)


def real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """A finite number from `low` to `high`."""
    return _bounded(float, "a number", low, min(high, 1e308))


count = whole(1, 10_000_000)
threads = whole(1, 1024)
seed = whole(0, SEEDS - 1)


def listed(text: str) -> list[str]:
    """A comma-separated list of names."""
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} was given, names separated by commas are allowed")
    return names


def output_file(path: str) -> str:
    """The path of a file to write, checked to be writable before any long-running work."""
    file = Path(path)
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written: give the name of a file in a writable folder")
    return path


def value_range(text: str) -> tuple[float, float]:
    """Two finite numbers, LOW:HIGH."""
    low, _, high = text.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = math.nan, math.nan
    if not (bounds[0] < bounds[1] and all(map(math.isfinite, bounds))):
        raise argparse.ArgumentTypeError(f"{text!r} was given, two finite numbers LOW:HIGH, the lower first, are allowed")
    return bounds


def arrays_file(path: str) -> str:
    """The path of an existing .npz file."""
    if Path(path).suffix.lower() != ".npz" or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path} was given, an existing .npz file is allowed")
    return path


def distribution(text: str) -> str:
    """The name of a distribution of inputs, with its bounds."""
    from aigc_edge.bundle.inputs import SampleInputs

    try:
        inputs = SampleInputs.parse(text)
    except AigcEdgeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if inputs.arrays:
        raise argparse.ArgumentTypeError(f"{text} was given, give a file of arrays with --calibration")
    return text


def class_indices(groups: list[list[str]], names: Sequence[str], total: int, bundle: str) -> list[int]:
    """Class indices for the values of `--class`: indices, names, "all" or "none".

    Raises AigcEdgeError that lists the allowed values.
    """
    if total == 0:
        raise AigcEdgeError(f"--class was given, but {bundle} has no classes: leave the option out")
    indices: list[int] = []
    for text in (item for group in groups for item in group):
        if text == "all":
            indices.extend(range(total))
        elif text == "none":
            indices.append(UNCONDITIONAL)
        elif text in names:
            indices.append(names.index(text))
        elif text.isascii() and text.isdigit() and int(text) < total:
            indices.append(int(text))
        else:
            known = f"0 to {total - 1}"
            if names and names != [str(i) for i in range(total)]:
                shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
                known += f" ({shown})"
            raise AigcEdgeError(f"class {text!r} is not one of {bundle}: it has classes {known}, 'all' or 'none'")
    return indices


def size(text: str) -> tuple[int, int]:
    """Height and width: 512x768, or 512 for a square."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isascii() and part.isdigit() and 0 < int(part) <= 1 << 16 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} was given, a height and width such as 512x768 is allowed")
    return int(parts[0]), int(parts[-1])


def pairs(texts: list[str], option: str) -> dict[str, bool | int | float | str]:
    """The values of a repeatable `option` of the form KEY=VALUE: integers, floats, booleans or strings."""
    values: dict[str, bool | int | float | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise AigcEdgeError(f"{option} {text!r} was given: write KEY=VALUE, with = between")
        values[key.strip()] = plain(value.strip())
    return values


def with_lists(values: dict[str, Any]) -> dict[str, Any]:
    """The values of `pairs`, with numbers separated by commas as lists."""
    for key, value in values.items():
        parts = [plain(part.strip()) for part in value.rstrip(",").split(",")] if isinstance(value, str) and "," in value else []
        if parts and all(type(part) in (int, float) for part in parts):
            values[key] = parts
    return values


def inputs(texts: list[str]) -> dict[str, str]:
    """A role, a number or a .npy file for each input by name, from the values of --input."""
    by_name = {key: str(value) for key, value in pairs(texts, "--input").items()}
    for key, value in by_name.items():
        if value not in ROLES and not value.endswith(".npy") and type(plain(value)) not in (int, float):
            raise AigcEdgeError(
                f"--input {key}={value} was given: it is a role ({', '.join(ROLES)}), a number, or a .npy file with examples"
            )
    return by_name


def plain(text: str) -> bool | int | float | str:
    """The value of a text: a boolean, an integer, a float, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def lines(file: str | None) -> tuple[str, ...]:
    """The non-empty lines of a text file; raises AigcEdgeError if there are none."""
    if file is None:
        return ()
    check_regular(Path(file))
    try:
        prompts = tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise AigcEdgeError(f"{file} cannot be read as text ({error}): give a UTF-8 file with one prompt per line") from error
    if not prompts:
        raise AigcEdgeError(f"{file} contains no prompts: give one per line")
    return prompts
