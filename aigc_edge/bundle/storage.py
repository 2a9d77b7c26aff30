"""The files of a bundle as they are stored: a folder, or one uncompressed zip of it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aigc_edge.bundle.manifest import FileEntry
from aigc_edge.errors import BundleError

if TYPE_CHECKING:  # these and tempfile are imported late: 15 ms that opening a folder must not cost
    import hashlib

MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
CHUNK = 1 << 20
AGAIN = "copy the bundle again or compile it again"


class Storage:
    """A folder or a zip, open for reading; a file that is not there raises FileNotFoundError with its relative name."""

    def __init__(self, path: Path) -> None:
        self._path, self._archive = path, None
        if not path.is_dir():
            import zipfile

            self._archive = zipfile.ZipFile(path)

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive:
            self._archive.close()

    def size(self, name: str) -> int:
        """Bytes of a file."""
        try:
            return self._archive.getinfo(name).file_size if self._archive else (self._path / name).stat().st_size
        except (KeyError, FileNotFoundError):
            raise FileNotFoundError(2, "missing", name) from None

    def open(self, name: str) -> BinaryIO:
        """A file, to be read in binary mode."""
        self.size(name)
        if not self._archive and not (self._path / name).is_file():
            raise OSError(errno.EINVAL, f"{name} is not a file")
        return self._archive.open(name) if self._archive else (self._path / name).open("rb")  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        with self.open(name) as stream:
            return stream.read()


class Files:
    """The files at `path` (a bundle, or a folder without a manifest), held to the lengths and hashes that are `listed`.

    Without a list, as in the workspace of a compilation, nothing is checked. `verified` says that every hash was checked already.
    """

    def __init__(self, path: Path, listed: Mapping[str, FileEntry] | None = None, *, verified: bool = False) -> None:
        self.path, self.listed, self.verified = path, listed, verified

    @property
    def packed(self) -> bool:
        """Whether the files are in one zip."""
        return self.path.is_file()

    def read(self, name: str) -> bytes:
        """The bytes of one file; raises BundleError when it is missing, unreadable, not listed or does not match its hash."""
        with explained(self.path), Storage(self.path) as storage:
            data = storage.read(self._checked_name(name))
        self._check_hash(name, _sha256(data))
        return data

    def copy(self, name: str, target: Path) -> None:
        """Write one file to `target`, a piece at a time; raises BundleError as `read` does."""
        digest = _sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with explained(self.path), Storage(self.path) as storage:
            source = storage.open(self._checked_name(name))
            with source, target.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
        self._check_hash(name, digest)

    @contextlib.contextmanager
    def extract(self, names: Iterable[str] | None = None, *, beside: bool = False) -> Iterator[Path]:
        """A folder with these files (None: all that are listed): the bundle's own, or of a packed one a temporary copy.

        The copy is in the system's temporary folder, or `beside` the bundle, on the same disk. Raises BundleError as `read` does.
        """
        if not self.packed:
            yield self.path
            return
        import tempfile

        parent = self.path.absolute().parent if beside else None
        with tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=parent) as folder:
            for name in self.listed or () if names is None else names:
                self.copy(name, Path(folder) / name)
            yield Path(folder)

    def _checked_name(self, name: str) -> str:
        if self.listed is not None and name not in self.listed:
            raise BundleError(f"{name} of {self.path} is not listed in the manifest: {AGAIN}")
        return name

    def _check_hash(self, name: str, digest: hashlib._Hash) -> None:
        if self.listed is None or self.verified:
            return
        if digest.hexdigest() != self.listed[name].sha256:
            raise BundleError(
                f"{name} of {self.path} does not match its hash in the manifest, it was changed or damaged: {AGAIN}"
            )


def _sha256(data: bytes = b"") -> hashlib._Hash:
    import hashlib

    return hashlib.sha256(data)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the failures of reading a bundle into a sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a whole bundle: it lacks {error.filename}; {AGAIN}") from None
    except OSError as error:
        raise BundleError(f"cannot read the bundle {path}: {error.strerror or error}") from error
    except Exception as error:
        import zipfile

        if not isinstance(error, zipfile.BadZipFile):
            raise
        raise BundleError(f"{path} is not a bundle, a folder or an uncompressed zip of it ({error}): {AGAIN}") from None
