"""A bundle on disk: its manifest, and its files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aigc_edge import _core
from aigc_edge.bundle.manifest import VERSION, Manifest
from aigc_edge.bundle.sizes import Size
from aigc_edge.bundle.storage import Files
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError, BundleError

VERIFY_ALL, VERIFY_NONE = 1, 2  # of the native reader


class Bundle(Files):
    """A bundle, a folder or one packed file, with its parsed `manifest`; see `open`, which reads it."""

    def __init__(self, path: Path, manifest: Manifest, *, verified: bool = False) -> None:
        super().__init__(path, manifest.files, verified=verified)
        self.manifest = manifest

    @staticmethod
    def open(path: str | os.PathLike[str], *, verify: bool = False) -> Bundle:
        """The bundle at `path`, read by the native reader as in sampling; with `verify` the hash of every file is checked.

        Raises BundleError that says what is missing, cut off, changed, malformed or too new.
        """
        file = existing(path)
        handle = native_reader(file, None, verify=VERIFY_ALL if verify else VERIFY_NONE)
        try:
            return Bundle.of(file, handle.manifest, verified=verify)
        finally:
            handle.close()

    @staticmethod
    def of(path: Path, text: str, *, verified: bool = False) -> Bundle:
        """The bundle at `path` with this manifest, which the native reader has validated."""
        return Bundle(path, Manifest.from_json(json.loads(text)), verified=verified)

    def at(self, size: Size | None = None, **tiles: Size | None) -> Bundle:
        """The bundle with its manifest at one of its sizes, or in `tiles`, see `Manifest.at`."""
        return Bundle(self.path, self.manifest.at(size, **tiles), verified=self.verified)

    def below(self, folder: str) -> list[str]:
        """The files in one of the bundle's folders."""
        return [name for name in self.manifest.files if name.startswith(f"{folder}/")]

    def add_programs(self, programs: Mapping[str, Program], *, default: str | None = None) -> Bundle:
        """Put `programs` into the bundle under their names, in place of those of the same name; the rest stays as it is.

        `default` names the new default program, None keeps it. Raises as `amend` does.
        """
        manifest = self.manifest
        chosen = default or manifest.default_program
        return self.amend(manifest._replace(programs={**manifest.programs, **programs}, default_program=chosen))

    def pack(self, file: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Pack the bundle, a folder, into the one uncompressed zip `file`, atomically; the same bundle gives the same bytes.

        Raises BundleError for files that do not match their hashes, AigcEdgeError when `file` exists, unless `overwrite`.
        """
        from aigc_edge.bundle.write import zip_folder

        if not self.verified:
            Bundle.open(self.path, verify=True)
        zip_folder(self.path, self.manifest.files, Path(file), overwrite=overwrite)

    def amend(
        self,
        manifest: Manifest,
        *,
        files: Mapping[str, Path | bytes] | None = None,
        remove: Collection[str] = (),
        out: Path | None = None,
        overwrite: bool = True,
        folder: Path | None = None,
    ) -> Bundle:
        """Write the bundle again, or to `out`, with another `manifest`, further `files`, and without those to `remove`.

        A packed bundle stays packed; `folder` is where `extract` has put its files, if it has. The exchange is atomic. Raises
        BundleError for files that do not match their hashes, and AigcEdgeError if the bundle cannot be written; it is then
        unchanged.
        """
        from aigc_edge.bundle.write import write_bundle  # here: bundles are opened more often than written

        require_version(self.path, self.manifest)
        kept = [name for name in self.manifest.files if name not in remove and name not in (files or {})]
        if not self.packed and not self.verified:
            Bundle.open(self.path, verify=True)
        with self.extract(kept, beside=True) if folder is None else contextlib.nullcontext(folder) as source:
            every = {name: source / name for name in kept} | dict(files or {})
            written = write_bundle(out or self.path, manifest, every, overwrite=overwrite, packed=self.packed)
        return Bundle(out or self.path, written)


def native_reader(path: Path, bind: Any, core: Any = _core, **options: Any) -> _core.Handle:
    """The handle of the bundle at `path`, whose name may be any bytes, by the native reader of the module `core`."""
    try:
        handle: _core.Handle = core.Handle(os.fsencode(path), bind, **options)
    except UnicodeDecodeError as error:  # its message names the path
        raise BundleError(error.object.decode("utf-8", "backslashreplace")) from None
    return handle


def existing(path: str | os.PathLike[str]) -> Path:
    """The path of a bundle; raises BundleError if nothing exists there."""
    file = Path(os.fsdecode(path))
    if not file.exists():
        from aigc_edge.files import recover

        recover(file)
    if not file.exists():
        raise BundleError(f"there is no bundle at {file}: give the folder or file that `aigc-edge compile` wrote")
    if not file.is_dir() and not file.is_file():
        raise BundleError(f"{file} is a pipe, a socket or a device: give the folder or file that `aigc-edge compile` wrote")
    return file


def require_version(path: Path, manifest: Manifest) -> None:
    """Raise AigcEdgeError for a bundle of an older version, which is read but not written."""
    if manifest.version != VERSION:
        raise AigcEdgeError(f"{path} has the bundle version {manifest.version}, {VERSION} is written here: compile it again")
