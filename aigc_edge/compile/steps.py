"""Steps of long work that are done once: what was finished before an interruption is found again, by what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aigc_edge
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_dir, cache_folder

DONE = "done.json"
DAYS = 14  # what an interrupted compilation left is kept so long


class Steps:
    """Finished steps of compilations, in the cache folder until the bundle is written."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_folder() / "compile"
        self._used: set[Path] = set()
        self._expire()

    def once(self, what: str, key: object, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any], bool]:
        """The folder that `make` filled, its report, and whether it was there already.

        `key` is everything that the result depends on, as JSON; None: `make` is called each time. What `make` raises, and
        Ctrl-C, leave nothing behind.
        """
        text = json.dumps([what, key, aigc_edge.__version__], sort_keys=True, default=str)
        place = self.root / hashlib.sha256((text if key is not None else os.urandom(16).hex()).encode()).hexdigest()[:32]
        self._used.add(place)
        if (place / DONE).is_file():
            return place, json.loads((place / DONE).read_text(encoding="utf-8")), True
        try:
            with atomic_dir(place) as part:
                report = make(part)
                (part / DONE).write_text(json.dumps(report), encoding="utf-8")
        except AigcEdgeError:
            if not (place / DONE).is_file():  # else another process finished the same step meanwhile
                raise
        return place, json.loads((place / DONE).read_text(encoding="utf-8")), False

    def forget(self) -> None:
        """Remove what this compilation used: the bundle holds it now."""
        for place in self._used:
            shutil.rmtree(place, ignore_errors=True)

    def _expire(self) -> None:
        for place in self.root.iterdir() if self.root.is_dir() else ():
            try:
                if time.time() - place.stat().st_mtime > DAYS * 86400:
                    shutil.rmtree(place, ignore_errors=True)
            except OSError:  # another process removed it
                continue


def fingerprint(*files: Path) -> list[str]:
    """SHA-256 of each file that there is, for the key of a step."""
    return [_digest(file) for file in files if file.is_file()]


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
