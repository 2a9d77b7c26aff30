"""Load training data by name: a registered data set or a folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_edge.data.folder import Watch, load_folder
from aigc_edge.data.image_set import ImageSet
from aigc_edge.errors import AigcEdgeError, DataError
from aigc_edge.registry import Registry

# A data set is a function of the image size (None: its default).
DATASETS: Registry[Callable[[int | None], ImageSet]] = Registry("data set", "aigc_edge.data", "aigc_edge.data")

SIZES = (4, 1024)


def load(source: str, size: int | None = None, *, skip_corrupt: bool = False, watch: Watch = iter) -> ImageSet:
    """Load the data set called `source`, or else the images in the folder `source`, as squares of `size` pixels.

    Raises DataError when neither exists, when nothing in the folder can be read, or when `size` is out of range. `watch`
    may wrap the list of files to display progress.
    """
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise DataError(f"an image size of {size} was requested: give {SIZES[0]} to {SIZES[1]} pixels")
    if source in DATASETS:
        return DATASETS[source](size)
    if not Path(source).exists():
        raise DataError(
            f"the data {source!r} does not exist: give a folder of images or the name of a data set ({', '.join(DATASETS)})"
        )
    return load_folder(Path(source), size, skip_corrupt=skip_corrupt, watch=watch)


def scikit_learn(function: str, name: str) -> Callable[[], Any]:
    """A function of sklearn.datasets, which holds the data set `name`; raises AigcEdgeError without scikit-learn."""
    try:
        return getattr(importlib.import_module("sklearn.datasets"), function)
    except ImportError as error:
        raise AigcEdgeError(f"the data set {name} comes with scikit-learn: install it (pip install scikit-learn)") from error
