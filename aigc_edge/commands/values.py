"""What may stand behind an option: each type says what was given and what is allowed."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from aigc_edge.errors import AigcEdgeError

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


def place_for(path: str) -> str:
    """The path of a file to write, if it can be written: known before the long work, not after it."""
    file = Path(path)
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written: give the name of a file in a folder that can")
    return path


def class_indices(given: list[list[str]], names: Sequence[str], total: int, bundle: str) -> list[int]:
    """Class indices for what `--class` was given: indices, names, "all", "none"; AigcEdgeError lists what is allowed."""
    if total == 0:
        raise AigcEdgeError(f"--class was given, but {bundle} has no classes: leave the option out")
    indices: list[int] = []
    for text in (item for part in given for item in part):
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


def pairs(given: list[str], option: str) -> dict[str, bool | int | float | str]:
    """The members that `option` was given as KEY=VALUE: whole numbers, numbers, true and false, or text."""
    found: dict[str, bool | int | float | str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise AigcEdgeError(f"{option} {text!r} was given: write KEY=VALUE, with = between")
        found[key.strip()] = plain(value.strip())
    return found


def roles(given: list[str]) -> dict[str, str]:
    """Roles of inputs by name, from what --input was given."""
    found = {key: str(value) for key, value in pairs(given, "--input").items()}
    for key, role in found.items():
        if role not in ROLES:
            raise AigcEdgeError(f"--input {key}={role} was given: a role is one of {', '.join(ROLES)}")
    return found


def plain(text: str) -> bool | int | float | str:
    """The value that a text stands for."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def lines(file: str | None) -> tuple[str, ...]:
    """The lines of a text file that are not empty; raises AigcEdgeError where there are none."""
    if file is None:
        return ()
    try:
        found = tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise AigcEdgeError(f"{file} cannot be read as text ({error}): give a UTF-8 file with one prompt a line") from error
    if not found:
        raise AigcEdgeError(f"{file} holds no prompt: give one a line")
    return found
