"""The optimised-model cache: networks with weights that onnxruntime has prepacked for this processor, memory-mapped from disk.

When onnxruntime loads a model it rewrites the weights: blocked layouts for convolutions, floats where fewer bits are stored. That
takes seconds and as much additional memory as the floats. Pages mapped from a file are read on demand, shared between processes
and reclaimed under memory pressure. The cache is content-addressed: a changed bundle, version or processor gets its own entry.
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

from aigc_edge.engines.base import EngineSource, made_as
from aigc_edge.engines.cache import cache_limit
from aigc_edge.files import atomic_dir, cache_folder, is_sealed, seal
from aigc_edge.hardware import processor_features

MODEL, WEIGHTS = "network.onnx", "network.data"
MIN_BYTES = 2**25  # smaller networks load at least as fast from the bundle
GROWTH = {
    "fp32": 1.2,
    "int8": 1.2,
    "fp16": 2.2,
    "w4a8": 2.4,
}  # upper bound of the entry's size relative to the model file, by format
DEFAULT_GROWTH = 8.5  # for the other formats: float32 from 4 bits
_IN_USE = 3600.0  # seconds that another process may need to open an entry


def cache_entry(source: EngineSource, options: dict[str, Any]) -> Path | None:
    """The cache folder for the network of `source`, opened with these options.

    None where it is not cached: the network is small, its files were not verified against the manifest's hashes, the cache is
    disabled or too small, or the disk is full or read-only.
    """
    relative, listed = source.model_file(), (source.files.listed or {}) if source.verified else {}
    files = [listed[name] for name in (relative, f"{relative}.data") if name in listed]
    size = sum(file.bytes for file in files)
    if not files or size < MIN_BYTES:
        return None
    from importlib.metadata import version  # imported lazily: few networks need it

    folder = cache_folder() / "prepacked"
    facts = [[file.sha256 for file in files], options, version("onnxruntime"), platform.machine(), processor_features()]
    entry = folder / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    limit, required = cache_limit(), GROWTH.get(made_as(relative, source.format), DEFAULT_GROWTH) * size
    try:
        existing = next(parent for parent in folder.parents if parent.exists())
        usable = entry.exists() or (required <= shutil.disk_usage(existing).free and os.access(existing, os.W_OK))
    except OSError:  # a home directory that this user cannot access
        return None
    return entry if usable and required <= limit else None


def is_complete(entry: Path) -> bool:
    """Whether all files of the cache entry have their original content; marks the entry as recently used."""
    with contextlib.suppress(OSError):
        os.utime(entry)
    return is_sealed(entry, once=True)


@contextlib.contextmanager
def write_entry(entry: Path) -> Iterator[Path]:
    """Yield the path to write the model to, with its weights beside it; both become the cache entry when the block succeeds.

    The least recently used entries are evicted when the cache exceeds its size limit.
    """
    with atomic_dir(entry, overwrite=True, durable=True) as part:
        yield part / MODEL
        seal(part)
    _evict(entry.parent, cache_limit(), entry)


def _evict(folder: Path, limit: float, keep: Path) -> None:
    now, entries, total = time.time(), [], 0
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            size, last_used = sum(file.stat().st_size for file in entry.iterdir()), entry.stat().st_mtime
            total += size
            entries.append((last_used, size, entry))
    for last_used, size, entry in sorted(entries):
        if total > limit and entry != keep and now - last_used > _IN_USE:
            shutil.rmtree(entry, ignore_errors=True)
            total -= size
