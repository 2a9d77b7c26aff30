"""Networks as onnxruntime lays them out for this processor, kept on disk to be mapped the next time.

Opening one makes its weights anew: in blocks that convolutions read, in floats where few bits are stored. That takes seconds, and
as much memory again as the floats. Mapped from a file the pages are the system's: read as they are needed, shared by processes,
given back when memory is short. What is kept is found by content, so a changed bundle, another version or processor has its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aigc_edge.engines.base import EngineSource
from aigc_edge.engines.cache import cache_limit
from aigc_edge.files import atomic_dir, cache_folder, write_json
from aigc_edge.hardware import processor_features

MODEL, WEIGHTS = "network.onnx", "network.data"
LEAST = 2**25  # bytes of a file: smaller networks are open before another file would be
GROWTH = {"fp32": 1.2, "int8": 1.2, "fp16": 2.2}  # times the bytes of a file, at most, by format
FLOATS = 8.5  # those of others: floats of four bits
_LIST = "files.json"
_IN_USE = 3600.0  # seconds that another process may need to open what it found


def place_of(source: EngineSource, options: dict[str, Any]) -> Path | None:
    """The folder of the network of `source`, opened with these options; None where it is not kept: it is small, nobody has held
    its files to the manifest's hashes, or the disk is not to be, or cannot be, used."""
    relative, listed = source.model_file(), (source.files.listed or {}) if source.verified else {}
    files = [listed[name] for name in (relative, f"{relative}.data") if name in listed]
    size = sum(file.bytes for file in files)
    if not files or size < LEAST:
        return None
    from importlib.metadata import version  # lazily: what few networks need

    folder = cache_folder() / "laid-out"
    facts = [[file.sha256 for file in files], options, version("onnxruntime"), platform.machine(), processor_features()]
    place = folder / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    limit, needed = cache_limit(), GROWTH.get(source.format, FLOATS) * size
    try:
        existing = next(parent for parent in folder.parents if parent.exists())
        able = place.exists() or (needed <= shutil.disk_usage(existing).free and os.access(existing, os.W_OK))
    except OSError:  # a home that this user may not look into
        return None
    return place if able and needed <= limit else None


def is_whole(place: Path) -> bool:
    """Whether the files in the folder are as long as they were written, which counts as a use."""
    try:
        wanted: dict[str, int] = json.loads((place / _LIST).read_text(encoding="utf-8"))
        whole = all((place / name).stat().st_size == size for name, size in wanted.items())
        os.utime(place)
    except (OSError, ValueError, AttributeError):
        return False
    return whole


@contextlib.contextmanager
def made(place: Path) -> Iterator[Path]:
    """The path to write the model to, its weights beside it; both become those of the folder when the block ends well, and others
    that were not used for longest go when all take too much of the disk."""
    with atomic_dir(place, overwrite=True) as part:
        yield part / MODEL
        write_json(part / _LIST, {file.name: file.stat().st_size for file in part.iterdir()})
    _evict(place.parent, cache_limit(), place)


def _evict(folder: Path, limit: float, keep: Path) -> None:
    now, found, total = time.time(), [], 0
    for place in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            size, used = sum(file.stat().st_size for file in place.iterdir()), place.stat().st_mtime
            total += size
            found.append((used, size, place))
    for used, size, place in sorted(found):
        if total > limit and place != keep and now - used > _IN_USE:
            shutil.rmtree(place, ignore_errors=True)
            total -= size
