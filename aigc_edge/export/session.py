"""The onnxruntime session that exported graphs are verified with."""

from __future__ import annotations

import os
from typing import Any

from aigc_edge.hardware import import_onnxruntime


def session_of(model: str | os.PathLike[str] | bytes) -> Any:
    """An onnxruntime CPU session of a file or a serialised model."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    place = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
