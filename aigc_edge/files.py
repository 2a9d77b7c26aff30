"""Atomic files and folders: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError

MOUNTS = "/proc/self/mountinfo"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2
_HERE = -100  # AT_FDCWD


def _temporary(path: Path, suffix: str = "part") -> Path:
    # A sibling, because a rename is atomic only within one file system.
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.{suffix}")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the failures of writing to `path` into an error message; other OSErrors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left to write {path}: free some disk space or choose another location; nothing was written"
            raise AigcEdgeError(message) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EBUSY):
            raise AigcEdgeError(f"cannot write {path}: {error.strerror}; choose a writable location") from error
        raise


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes `path`, on any failure it is removed.

    With `durable` the content is on the disk before it does. Raises AigcEdgeError when the disk is full or the path is not
    writable.
    """
    final = Path(path)
    part = _temporary(final)
    with _explained(final):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            yield part
            if durable:
                _sync(part)
            os.replace(part, final)
            if durable:
                _sync(final.parent)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str], *, overwrite: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `path`, on any failure (Ctrl-C too) it is removed.

    An existing `path`, a folder or a file, is replaced when `overwrite` is true and refused otherwise. With `durable`, and
    where something is replaced, the new content is on the disk before that. Raises as `check_output` does, too.
    """
    import shutil  # here, as hashlib below: opening a bundle needs neither

    final = Path(path)
    check_output(final, overwrite=overwrite)
    part = _temporary(final)
    with _explained(final):
        try:
            part.mkdir(parents=True)
            yield part
            exists = os.path.lexists(final)
            if durable or exists:
                for file in (*part.rglob("*"), part):
                    _sync(file)
            if exists:
                _exchange(part, final)
            else:
                os.replace(part, final)
            if durable or exists:
                _sync(final.parent)
        finally:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise AigcEdgeError for a path that cannot be written or replaced, before the work whose result is to be there."""
    if os.path.lexists(path) and not overwrite:
        raise AigcEdgeError(f"{path} already exists: give another name or ask to overwrite it")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise AigcEdgeError(f"cannot write {path}: {parent} is not a writable folder; choose another location")
    place = os.path.join(os.path.realpath(path.parent), path.name)
    mounted = os.path.ismount(place)
    with contextlib.suppress(OSError), open(MOUNTS, "rb") as stream:  # files, and folders of the same disk, not Linux: none
        mounted = mounted or any(
            line.split()[4].decode("unicode_escape").encode("latin-1") == os.fsencode(place) for line in stream
        )
    if mounted:
        raise AigcEdgeError(f"{path} is a mount point, which cannot be replaced: write to a path inside or beside it")


def check_regular(path: Path) -> None:
    """Raise AigcEdgeError for a pipe, a socket or a device, whose reading may never end."""
    with contextlib.suppress(OSError):  # what is not there is reported by who reads it
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise AigcEdgeError(f"{path} is a pipe, a socket or a device: give a file or a folder")


def recover(path: Path) -> None:
    """Put back what an interrupted replacement of `path` has moved aside, where nothing is at `path`."""
    import glob

    if os.path.lexists(path):
        return
    with contextlib.suppress(OSError):  # a folder that cannot be read or written: there is nothing at `path`, then
        aside = sorted(path.parent.glob(f".{glob.escape(path.name)}.*.old"), key=os.path.getmtime)
        if not aside:
            return
        try:  # a link replaces nothing that another process has written there by now, nor does a folder that is renamed
            os.link(aside[-1], path, follow_symlinks=False)
        except FileExistsError:
            return
        except OSError:
            os.rename(aside[-1], path)
        else:
            os.unlink(aside[-1])


def _exchange(part: Path, final: Path) -> None:
    """Exchange two paths, in one step where the system has it; what was at `final` is at `part` then, or gone."""
    import ctypes

    with contextlib.suppress(AttributeError):  # not glibc
        if ctypes.CDLL(None).renameat2(_HERE, os.fsencode(part), _HERE, os.fsencode(final), _EXCHANGE) == 0:
            return
    old = _temporary(final, "old")  # a name that `recover` knows
    os.replace(final, old)
    os.replace(part, final)
    os.replace(old, part)


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # a link that leads nowhere, a file system without it
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | os.PathLike[str], value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented UTF-8 JSON, as `atomic_file` does; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_file(path, durable=durable) as part:
        part.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


SEAL, CHECKED = "files.json", "checked.json"
BOOT = "/proc/sys/kernel/random/boot_id"


def seal(folder: Path) -> None:
    """List the files of a cache entry with their SHA-256 in it, for `is_sealed`."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in (SEAL, CHECKED)]
    listed = {str(file.relative_to(folder)): sha256_of(file) for file in files}
    write_json(folder / SEAL, listed)


def is_sealed(folder: Path, *, once: bool = False) -> bool:
    """Whether all files of a cache entry are as they were when it was sealed.

    With `once` they are hashed once per boot, and again when one of them was replaced or written to: for large files that are
    mapped, whose pages the file system hands out as they are on the disk.
    """
    try:
        listed: dict[str, str] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        states = [os.stat(folder / name) for name in listed]
        boot = Path(BOOT).read_text(encoding="ascii") if once and os.path.exists(BOOT) else ""
        stamp = [boot, *([s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in states)]
        checked = folder / CHECKED
        if boot and checked.is_file() and json.loads(checked.read_text(encoding="utf-8")) == stamp:
            return True
        if not listed or any(sha256_of(folder / name) != digest for name, digest in listed.items()):
            return False
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    if boot:
        with contextlib.suppress(OSError, AigcEdgeError):  # a cache that cannot be written is hashed again
            write_json(checked, stamp)
    return True


def cache_folder() -> Path:
    """The cache folder for data that can be recreated: $XDG_CACHE_HOME/aigc-edge, by default ~/.cache/aigc-edge."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "aigc-edge"
