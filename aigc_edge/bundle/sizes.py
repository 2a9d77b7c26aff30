"""Image sizes of a bundle: shapes that follow them, such as ["N", 4, "H/8", "W/8"], and their numbers at one of the sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from aigc_edge.errors import AigcEdgeError, BundleError

Size = tuple[int, int]  # height and width of the images
Dim = str | int
AXES = "HW"
LONGEST = 1 << 16  # side of an image
METADATA = "image_size"  # of an ONNX file whose shapes follow the size: its default
_FOLLOWS = re.compile(r"([HW])(?:/(?=[0-9]{1,5}$)(0*[1-9][0-9]*))?")


def image_size(value: Any, name: str = "size", what: str = "images") -> Size:
    """Height and width of an image; raises AigcEdgeError, with the `name` of the argument, for anything else."""
    try:
        height, width = value
    except (TypeError, ValueError):
        raise AigcEdgeError(f"{name} is {value!r}: give the height and the width of the {what}, such as (512, 768)") from None
    of = "" if name == "size" else f" of {name}"
    for axis, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or not 1 <= side <= LONGEST:
            raise AigcEdgeError(f"the {axis}{of} is {side!r}: it must be a whole number from 1 to {LONGEST}")
    return int(height), int(width)


def named(size: Sequence[int]) -> str:
    """The size as it is written, 512x768."""
    return "x".join(map(str, size))


def listed(sizes: Iterable[Sequence[int]]) -> str:
    """Sizes as part of a sentence."""
    return ", ".join(map(named, sizes))


def sides(sizes: Sequence[Size], scale: int = 1) -> tuple[Dim, Dim]:
    """Height and width of what is 1/`scale` of the image: a number where that is the same at every size."""
    dims: list[Dim] = []
    for axis, name in enumerate(AXES):
        lengths = {size[axis] for size in sizes}
        dims.append(lengths.pop() // scale if len(lengths) == 1 else name if scale == 1 else f"{name}/{scale}")
    return dims[0], dims[1]


def follows(dim: object) -> bool:
    """Whether a dimension follows the image size."""
    return isinstance(dim, str) and _FOLLOWS.fullmatch(dim) is not None


def number(dim: Dim, size: Size) -> Dim:
    """The dimension at a size; what does not follow it, a number or the batch, stays. Raises BundleError for a broken one."""
    match = _FOLLOWS.fullmatch(dim) if isinstance(dim, str) else None
    if match is None:
        return dim
    length, scale = size[AXES.index(match[1])], int(match[2] or 1)
    if length % scale:
        raise BundleError(f"a shape holds {dim!r}, which is no whole number at the size {named(size)}: compile the bundle again")
    return length // scale


def at(shape: Iterable[Dim], size: Size | None) -> tuple[Dim, ...]:
    """The shape at a size; None: there is one size alone, and the shape is numbers."""
    return tuple(shape) if size is None else tuple(number(dim, size) for dim in shape)


def units(sizes: Sequence[Size]) -> Size:
    """What every height and every width is a multiple of."""
    return math.gcd(*(size[0] for size in sizes)), math.gcd(*(size[1] for size in sizes))
