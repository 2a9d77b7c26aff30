"""Writes, packs and reads bundles (format 1): one folder, or one uncompressed zip of it. Nothing in a bundle is executable."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.files import atomic_dir, atomic_file

FORMAT = "aigc-edge-bundle"
VERSION = 1
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
_CHUNK = 1 << 20
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same bundle packs to the same bytes
_AGAIN = "copy the bundle again or compile it again"


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    files: Mapping[str, Path | bytes],
    *,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, Any]:
    """Write the bundle folder `path` atomically and return its manifest with the sizes and SHA-256 hashes of `files`.

    `files` maps a relative name to a source file or to the bytes themselves; `manifest` comes without "format", "version" and
    "files". With `link`, files are linked where the file system allows it, and not hashed: for a bundle that is soon gone and
    opened without verification. Raises AigcEdgeError when `path` exists (unless `overwrite`), a name leads out of the bundle, or
    the disk is full; then nothing is left behind.
    """
    for name in files:
        if not _safe(name) or name in (MANIFEST, DIGEST):
            raise AigcEdgeError(f"{name!r} cannot be a file of a bundle: give a relative path with / that stays inside it")
    with atomic_dir(path, overwrite=overwrite) as folder:
        store = _link if link else _store
        listed = {name: store(files[name], folder / name) for name in sorted(files)}
        full = {"format": FORMAT, "version": VERSION, **manifest, "files": listed}
        text = json.dumps(full, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        (folder / MANIFEST).write_bytes(text)
        (folder / DIGEST).write_text(hashlib.sha256(text).hexdigest() + "\n")
    return full


def pack(folder: str | os.PathLike[str], file: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Pack the bundle `folder` into the one uncompressed zip `file`, atomically; the same bundle gives the same bytes.

    Raises BundleError when `folder` is no intact bundle, AigcEdgeError when `file` exists and `overwrite` is not given.
    """
    source, target = Path(folder), Path(file)
    manifest = read_manifest(source, verify=True)
    if target.exists() and not overwrite:
        raise AigcEdgeError(f"{target} already exists: give another name or ask to overwrite it")
    if target.is_dir():
        raise AigcEdgeError(f"{target} is a folder: give the name of a file to pack the bundle into")
    with atomic_file(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted([MANIFEST, DIGEST, *manifest["files"]]):
            entry = zipfile.ZipInfo(name, _FIXED_TIME)
            entry.external_attr = 0o644 << 16
            entry.file_size = (source / name).stat().st_size  # zip64 only where the size asks for it
            with archive.open(entry, "w") as sink, (source / name).open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    sink.write(chunk)


def read_manifest(path: str | os.PathLike[str], *, verify: bool = False) -> dict[str, Any]:
    """The manifest of the bundle at `path` (a folder or a packed file); with `verify` every file's hash is checked too.

    Raises BundleError that says what is missing, cut off, changed or too new. The runtime itself trusts the native reader, which
    checks more.
    """
    bundle = Path(path)
    if not bundle.exists():
        raise BundleError(f"there is no bundle at {bundle}: give the folder or file that `aigc-edge compile` wrote")
    try:
        with _Files(bundle) as stored:
            manifest = _checked_manifest(bundle, stored.read(MANIFEST), stored.read(DIGEST))
            for name, entry in manifest["files"].items():
                _check_file(bundle, stored, name, entry, verify)
            return manifest
    except FileNotFoundError as error:
        raise BundleError(f"{bundle} is not a whole bundle: it lacks {error.filename}; {_AGAIN}") from None
    except zipfile.BadZipFile as error:
        raise BundleError(f"{bundle} is not a bundle, a folder or an uncompressed zip of it ({error}): {_AGAIN}") from None
    except OSError as error:
        raise BundleError(f"cannot read the bundle {bundle}: {error.strerror or error}") from error


class _Files:
    """The files of a folder or of a zip under one interface; what is not there is FileNotFoundError with its relative name."""

    def __init__(self, bundle: Path) -> None:
        self._folder = bundle
        self._archive = None if bundle.is_dir() else zipfile.ZipFile(bundle)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive:
            self._archive.close()

    def size(self, name: str) -> int:
        try:
            return self._archive.getinfo(name).file_size if self._archive else (self._folder / name).stat().st_size
        except (KeyError, FileNotFoundError):
            raise FileNotFoundError(2, "missing", name) from None

    def open(self, name: str) -> BinaryIO:
        self.size(name)
        return self._archive.open(name) if self._archive else (self._folder / name).open("rb")  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read()


def _checked_manifest(bundle: Path, text: bytes, digest: bytes) -> dict[str, Any]:
    if digest.decode("ascii", "replace").strip() != hashlib.sha256(text).hexdigest():
        raise BundleError(f"{bundle}: {MANIFEST} does not match {DIGEST}, it was cut off or changed: {_AGAIN}")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{bundle}: {MANIFEST} is no JSON ({error}): {_AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{bundle} is not an aigc-edge bundle: the format in its {MANIFEST} must be {FORMAT!r}")
    version = manifest.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise BundleError(f"{bundle} has the bundle version {version}, this aigc-edge reads up to {VERSION}: install a newer one")
    wrong = [key for key in ("components", "files", "programs") if not isinstance(manifest.get(key), dict)]
    if wrong:
        raise BundleError(f"{bundle}: its {MANIFEST} lacks {' and '.join(wrong)}: {_AGAIN}")
    return manifest


def _check_file(bundle: Path, stored: _Files, name: str, entry: Mapping[str, Any], verify: bool) -> None:
    if not _safe(name):
        raise BundleError(f"{bundle}: the file name {name!r} leads out of the bundle: do not trust it")
    size = stored.size(name)
    if size != entry.get("bytes"):
        raise BundleError(f"{bundle}: {name} has {size} bytes, the manifest says {entry.get('bytes')}: {_AGAIN}")
    if verify:
        digest = hashlib.sha256()
        with stored.open(name) as stream:
            for chunk in _chunks(stream):
                digest.update(chunk)
        if digest.hexdigest() != entry.get("sha256"):
            raise BundleError(f"{bundle}: {name} does not match its hash in the manifest, it was changed or damaged: {_AGAIN}")


def _store(source: Path | bytes, target: Path) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as sink:
        if isinstance(source, bytes):
            chunks: Iterator[bytes] = iter((source,))
        else:
            chunks = _chunks(source.open("rb"))
        for chunk in chunks:
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
        while chunk := stream.read(_CHUNK):
            yield chunk


def _safe(name: str) -> bool:
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and all(part not in ("", ".", "..") for part in parts)
