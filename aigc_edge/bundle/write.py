"""Writing bundles (format 1): one folder, or one uncompressed zip of it. Nothing in a bundle is executable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from aigc_edge.bundle.manifest import FORMAT, VERSION, FileEntry, Manifest
from aigc_edge.bundle.storage import CHUNK, DIGEST, MANIFEST
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_dir, atomic_file

_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same bundle packs to the same bytes


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    *,
    overwrite: bool = False,
    link: bool = False,
    packed: bool = False,
) -> Manifest:
    """Write a bundle to `path` atomically and return its manifest with the lengths and SHA-256 hashes of `files`.

    `files` maps a relative name to a source file or to the bytes themselves; those of `manifest` are replaced. With `packed` it
    is one file. With `link`, files are linked where the file system allows it, and not hashed: for a bundle that is soon gone and
    opened without verification. Raises AigcEdgeError when `path` exists (unless `overwrite`), a name leads out of the bundle, or
    the disk is full; then nothing is left behind.
    """
    final = Path(path)
    if packed:
        import tempfile

        with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.absolute().parent) as folder:
            written = write_bundle(Path(folder) / "whole", manifest, files, link=link)
            zip_folder(Path(folder) / "whole", written.files, final, overwrite=overwrite)
        return written
    members = manifest.to_json()
    for name in ("format", "version", "files"):
        del members[name]
    listed = write_members(final, members, files, overwrite=overwrite, link=link)["files"]
    return manifest._replace(version=VERSION, files={name: FileEntry(**entry) for name, entry in listed.items()})


def write_members(
    path: str | os.PathLike[str],
    members: Mapping[str, Any],
    files: Mapping[str, Path | bytes],
    *,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, Any]:
    """`write_bundle` for the members of a manifest as JSON, without "format", "version" and "files", which nobody validates.

    Returns the whole manifest as JSON. Raises ValueError for numbers that are not JSON.
    """
    for name in files:
        inside = "\\" not in name and "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))
        if not inside or name in (MANIFEST, DIGEST):
            raise AigcEdgeError(f"{name!r} cannot be a file of a bundle: give a relative path with / that stays inside it")
    with atomic_dir(path, overwrite=overwrite) as folder:
        store = _link if link else _store
        listed = {name: store(files[name], folder / name) for name in sorted(files)}
        whole = {"format": FORMAT, "version": VERSION, **members, "files": listed}
        text = json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        (folder / MANIFEST).write_bytes(text)
        (folder / DIGEST).write_text(hashlib.sha256(text).hexdigest() + "\n")
    return whole


def zip_folder(folder: Path, names: Iterable[str], file: Path, *, overwrite: bool = False) -> None:
    """Put these files of a bundle's folder, and its manifest, into the one uncompressed zip `file`, atomically."""
    if file.exists() and not overwrite:
        raise AigcEdgeError(f"{file} already exists: give another name or ask to overwrite it")
    if file.is_dir():
        raise AigcEdgeError(f"{file} is a folder: give the name of a file to pack the bundle into")
    import zipfile

    with atomic_file(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted([MANIFEST, DIGEST, *names]):
            entry = zipfile.ZipInfo(name, _FIXED_TIME)
            entry.external_attr = 0o644 << 16
            entry.file_size = (folder / name).stat().st_size  # zip64 only where the size requires it
            with archive.open(entry, "w") as sink, (folder / name).open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    sink.write(chunk)


def _store(source: Path | bytes, target: Path) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as sink:
        for chunk in iter((source,)) if isinstance(source, bytes) else _chunks(source.open("rb")):
            sink.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _link(source: Path | bytes, target: Path) -> dict[str, Any]:
    if isinstance(source, bytes):
        return _store(source, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    except OSError:  # another file system
        return _store(source, target)
    return {"bytes": target.stat().st_size, "sha256": "0" * 64}


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK):
            yield chunk
