"""Atomic files and folders: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError


def _temporary(path: Path) -> Path:
    # A sibling, because a rename is atomic only within one file system.
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the failures of writing to `path` into an error message; other OSErrors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left to write {path}: free some disk space or choose another location; nothing was written"
            raise AigcEdgeError(message) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
            raise AigcEdgeError(f"cannot write {path}: {error.strerror}; choose a writable location") from error
        raise


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes `path`, on any failure it is removed.

    Raises AigcEdgeError when the disk is full or the path is not writable.
    """
    final = Path(path)
    part = _temporary(final)
    with _explained(final):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, final)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `path`, on any failure (Ctrl-C too) it is removed.

    An existing `path` is replaced when `overwrite` is true and refused otherwise.
    """
    import shutil  # here, as hashlib below: opening a bundle needs neither

    final = Path(path)
    if final.exists() and not overwrite:
        raise AigcEdgeError(f"{final} already exists: give another name or allow overwriting it")
    part = _temporary(final)
    with _explained(final):
        try:
            part.mkdir(parents=True)
            yield part
            if final.exists():
                old = _temporary(final)
                os.replace(final, old)
                os.replace(part, final)
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            else:
                os.replace(part, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """The cache folder for data that can be recreated: $XDG_CACHE_HOME/aigc-edge, by default ~/.cache/aigc-edge."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "aigc-edge"
