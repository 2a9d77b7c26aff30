"""The conditions of the samples of a compilation: classes, prompts, or examples of condition tensors, in turn."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import aigc_edge
from aigc_edge.compile.evaluator import ConditionsOf
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.work import Work

Arrays = dict[str, npt.NDArray[Any]]
KINDS = ("conditions", "negative_conditions")  # keyword arguments of Pipeline.sample


def store(work: Work, conditions: Mapping[str, Any], negative: Mapping[str, Any]) -> None:
    """Store examples [k, ...] of conditions in the bundle, for calibrating further formats."""
    examples: dict[str, dict[str, str]] = {}
    for kind, arrays in zip(KINDS, (conditions, negative), strict=True):
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, np.asarray(array, np.float32), allow_pickle=False)
            file = f"examples/{kind}.{name}.npy"
            work.files[file] = stream.getvalue()
            examples.setdefault(kind, {})[name] = file
    if examples:
        work.manifest = replace(work.manifest, examples=examples)


def conditions_of(work: Work) -> ConditionsOf:
    """A function from sample indices to the keyword arguments of `Pipeline.sample` for them."""
    stored = {kind: _load(work, kind) for kind in KINDS}
    classes, prompts = work.num_classes, work.prompts

    def of(index: npt.NDArray[np.int64]) -> dict[str, Any]:
        options: dict[str, Any] = {"classes": index % classes} if classes else {}
        if prompts:
            options["prompt"] = [prompts[i % len(prompts)] for i in index]
        for kind, arrays in stored.items():
            if arrays:
                options[kind] = {name: array[index % len(array)] for name, array in arrays.items()}
        return options

    return of


def arrays(work: Work) -> tuple[Arrays | None, Arrays | None]:
    """Conditions and negative conditions [k, ...] to calibrate with, prompts encoded by the bundle's own text encoders."""
    if not work.prompts:
        own, other = (_load(work, kind) or None for kind in KINDS)
        return own, other
    if work.encoded is None:
        with aigc_edge.open(work.draft([REFERENCE]), threads=work.request.threads, verify="none") as pipeline:
            encoded = pipeline.encode(list(work.prompts))
            if work.manifest.text and work.manifest.text.negative == "zeros":
                negative = {name: np.zeros_like(array[:1]) for name, array in encoded.items()}
            else:
                negative = pipeline.encode([""])
        work.encoded = encoded, negative
    return work.encoded


def _load(work: Work, kind: str) -> Arrays:
    files = work.manifest.examples.get(kind, {})
    return {name: np.load(_stream(work.files[file]), allow_pickle=False) for name, file in files.items()}


def _stream(file: Path | bytes) -> Any:
    return io.BytesIO(file) if isinstance(file, bytes) else file
