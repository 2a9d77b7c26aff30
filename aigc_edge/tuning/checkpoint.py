"""The best tables of a tuning that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import write_json
from aigc_edge.tuning.table import CoefficientTable


def checkpoint_file(bundle: Path) -> Path:
    """The file beside `bundle` that holds the best tables until the bundle is written."""
    return bundle.absolute().with_name(f"{bundle.name}.tuning.json")


class Checkpoint:
    """Tables by number of evaluations in a JSON file; `key` says what they were fitted to."""

    def __init__(self, file: Path, key: Mapping[str, Any]) -> None:
        self.file, self._key = file, key

    def load(self) -> dict[int, CoefficientTable]:
        """The tables that were saved with the same key; none where the file is missing or unreadable."""
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["key"] != json.loads(json.dumps(self._key)):
                return {}
            tables = stored["tables"].items()
            return {int(nfe): CoefficientTable(np.array(t["levels"]), np.array(t["weights"])) for nfe, t in tables}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AigcEdgeError):
            return {}

    def save(self, tables: Mapping[int, CoefficientTable]) -> None:
        """Replace the file."""
        values = {str(nfe): {"levels": t.levels.tolist(), "weights": t.weights.tolist()} for nfe, t in tables.items()}
        write_json(self.file, {"key": self._key, "tables": values})

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.file.unlink(missing_ok=True)
