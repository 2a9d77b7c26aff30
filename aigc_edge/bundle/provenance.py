"""The provenance of a bundle: tools and their versions, data and licence, time of creation."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aigc_edge

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "tensorrt-rtx-cu13", "tensorrt")


def tools() -> dict[str, str]:
    """Versions of the installed packages that take part in a compilation, by name."""
    versions = {"aigc-edge": aigc_edge.__version__}
    for name in TOOLS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def of_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run's weights came from, from its config.json; of a data folder only the name is recorded, not the path."""
    data, train = config["data"], config["train"]
    return {
        "data": Path(data["source"]).name,
        "licence": data.get("licence"),
        "count": data.get("count"),
        "fingerprint": data.get("fingerprint"),
        "seed": train.get("seed"),
        "trained_steps": train.get("steps"),
    }


def created() -> str:
    """Now in UTC as ISO 8601, or the moment that SOURCE_DATE_EPOCH names, which makes a bundle reproducible."""
    moment, zone = os.environ.get("SOURCE_DATE_EPOCH"), datetime.timezone.utc
    time = datetime.datetime.fromtimestamp(int(moment), zone) if moment else datetime.datetime.now(zone)
    return time.isoformat(timespec="seconds")
