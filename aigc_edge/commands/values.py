"""What may stand behind an option: each type says what was given and what is allowed."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aigc_edge.errors import AigcEdgeError

Number = TypeVar("Number", int, float)
SEEDS = 2**64
UNCONDITIONAL = -1


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


def class_indices(given: list[list[str]], names: list[str], total: int, bundle: str) -> list[int]:
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
