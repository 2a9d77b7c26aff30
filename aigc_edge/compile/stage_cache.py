"""A cache of finished stages: after an interruption they are found again by the hash of their inputs."""

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
from aigc_edge.files import atomic_dir, cache_folder, is_sealed, seal, sha256_of

DONE = "done.json"
DAYS = 14  # how long the stages of an interrupted compilation are kept


class StageCache:
    """Finished stages of compilations, kept in the cache folder until the bundle is written."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_folder() / "compile"
        self._used: set[Path] = set()
        self._expire()

    def get_or_create(
        self, what: str, key: object, create: Callable[[Path], dict[str, Any]]
    ) -> tuple[Path, dict[str, Any], bool]:
        """The folder that `create` filled, the report it returned, and whether they were cached.

        `key` is everything that the result depends on, as JSON (None: not cached, `create` is called each time). If `create`
        raises or is interrupted, nothing is left behind.
        """
        text = json.dumps([what, key, aigc_edge.__version__], sort_keys=True, default=str)
        folder = self.root / hashlib.sha256((text if key is not None else os.urandom(16).hex()).encode()).hexdigest()[:32]
        self._used.add(folder)
        if is_sealed(folder):
            return folder, json.loads((folder / DONE).read_text(encoding="utf-8")), True
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        try:
            with atomic_dir(folder, durable=True) as part:
                report = create(part)
                (part / DONE).write_text(json.dumps(report), encoding="utf-8")
                seal(part)
        except AigcEdgeError:
            if not (folder / DONE).is_file():  # otherwise another process finished the same stage meanwhile
                raise
        return folder, json.loads((folder / DONE).read_text(encoding="utf-8")), False

    def remove_used(self) -> None:
        """Delete the stages that this compilation used, once the bundle contains them."""
        for folder in self._used:
            shutil.rmtree(folder, ignore_errors=True)

    def _expire(self) -> None:
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            try:
                if time.time() - folder.stat().st_mtime > DAYS * 86400:
                    shutil.rmtree(folder, ignore_errors=True)
            except OSError:  # another process removed it
                continue


def fingerprint(*files: Path) -> list[str]:
    """SHA-256 of each file that exists, for the key of a stage."""
    return [sha256_of(file) for file in files if file.is_file()]
