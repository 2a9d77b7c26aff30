"""Adds to a bundle that is already there, a folder or a packed file, in one atomic exchange."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from aigc_edge.bundle.writer import VERSION, pack, read_manifest, write_bundle
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError

_WRITTEN = ("format", "version", "files")  # by the writer itself


def add_programs(path: str | os.PathLike[str], programs: Mapping[str, Program], *, default: str | None = None) -> None:
    """Put `programs` into the bundle at `path` under their names, in place of those of the same name; the rest stays as it is.

    `default` names the new default program, None keeps it. Raises BundleError for a bundle that is not intact and AigcEdgeError
    where it cannot be written; then it is as it was.
    """
    bundle = Path(path)
    manifest = read_manifest(bundle, verify=True)
    amended = {"programs": manifest["programs"] | {name: program.to_json() for name, program in programs.items()}}
    amended["default_program"] = default or manifest["default_program"]
    with unpacked(bundle, list(manifest["files"])) as folder:
        exchange(bundle, folder, manifest, amended)


def exchange(
    bundle: Path,
    folder: Path,
    manifest: Mapping[str, Any],
    amended: Mapping[str, Any],
    *,
    files: Mapping[str, Path | bytes] | None = None,
    gone: Collection[str] = (),
    out: Path | None = None,
    overwrite: bool = True,
) -> dict[str, Any]:
    """Write the bundle anew, or to `out`, with `amended` entries of its manifest, without the files `gone`, with new `files`.

    `folder` is what `unpacked` gave for it; a packed bundle stays packed. Returns the new manifest. Raises AigcEdgeError where it
    cannot be written; then everything is as it was.
    """
    if manifest["version"] != VERSION:
        raise AigcEdgeError(f"{bundle} has the bundle version {manifest['version']}, {VERSION} is written here: compile it again")
    kept = {name: folder / name for name in manifest["files"] if name not in gone}
    entries = {key: value for key, value in (dict(manifest) | dict(amended)).items() if key not in _WRITTEN}
    final, every = out or bundle, kept | dict(files or {})
    if bundle.is_dir():
        return write_bundle(final, entries, every, overwrite=overwrite)
    whole = folder.with_name("whole")
    made = write_bundle(whole, entries, every)
    pack(whole, final, overwrite=overwrite)
    return made


@contextlib.contextmanager
def unpacked(bundle: Path, names: list[str]) -> Iterator[Path]:
    """A folder with these files of a bundle: the bundle's own, or a temporary one beside a packed file."""
    if bundle.is_dir():
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}.", dir=bundle.absolute().parent) as place:
        folder = Path(place) / "files"
        with zipfile.ZipFile(bundle) as archive:
            for name in names:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as stream, target.open("wb") as sink:
                    shutil.copyfileobj(stream, sink)
        yield folder


def files_below(manifest: Mapping[str, Any], folder: str) -> list[str]:
    """The files of a bundle that lie in one of its folders."""
    return [name for name in manifest["files"] if name.startswith(f"{folder}/")]
