"""The files of a bundle as they are stored: a folder, or one uncompressed zip of it."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aigc_edge.bundle.manifest import FileEntry
from aigc_edge.errors import BundleError

if TYPE_CHECKING:  # zipfile and tempfile are imported late: 13 ms that opening a folder must not cost
    import zipfile

CHUNK = 1 << 20
MAX_FILES = 1 << 20  # of a packed bundle
AGAIN = "copy the bundle again or compile it again"
_ZIP = (b"PK\3\4", b"PK\5\6")


class Storage:
    """A folder or a zip, open for reading; a file that is not there raises FileNotFoundError with its relative name."""

    def __init__(self, path: Path) -> None:
        self._path, self._archive = path, None if path.is_dir() else _open_zip(path)

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
        self._check_hash(name, hashlib.sha256(data).hexdigest())
        return data

    def copy(self, name: str, target: Path) -> None:
        """Write one file to `target`, a piece at a time; raises BundleError as `read` does."""
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with explained(self.path), Storage(self.path) as storage:
            source = storage.open(self._checked_name(name))
            with source, target.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
        self._check_hash(name, digest.hexdigest())

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

    def check(self, *, hashes: bool) -> None:
        """Raise BundleError unless every listed file is there in its length and, with `hashes`, has its SHA-256."""
        with explained(self.path), Storage(self.path) as storage:
            for name, entry in (self.listed or {}).items():
                size = storage.size(name)
                if size != entry.bytes:
                    raise BundleError(f"{self.path}: {name} has {size} bytes, the manifest says {entry.bytes}: {AGAIN}")
                if hashes:
                    digest = hashlib.sha256()
                    with storage.open(name) as stream:
                        while chunk := stream.read(CHUNK):
                            digest.update(chunk)
                    self._check_hash(name, digest.hexdigest(), always=True)
        self.verified = self.verified or hashes

    def _checked_name(self, name: str) -> str:
        if self.listed is not None and name not in self.listed:
            raise BundleError(f"{name} of {self.path} is not listed in the manifest: {AGAIN}")
        return name

    def _check_hash(self, name: str, digest: str, *, always: bool = False) -> None:
        if self.listed is None or (self.verified and not always):
            return
        if digest != self.listed[name].sha256:
            raise BundleError(
                f"{name} of {self.path} does not match its hash in the manifest, it was changed or damaged: {AGAIN}"
            )


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


def _open_zip(path: Path) -> zipfile.ZipFile:
    import zipfile

    with path.open("rb") as stream:
        if stream.read(4) not in _ZIP:
            raise zipfile.BadZipFile("it does not begin as a zip does")
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    odd = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if len(names) > MAX_FILES:
        archive.close()
        raise zipfile.BadZipFile("it holds more than a million files")
    if odd or twice:
        archive.close()
        raise zipfile.BadZipFile(f"it holds {odd[0]} compressed or encrypted" if odd else f"it holds {twice[0]} twice")
    return archive
