"""What is computed in float is in float32, or in half precision where the CPU has it and the quality card allows it."""

from __future__ import annotations

import warnings

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.engines.base import ENGINES, EXACT, Engine
from aigc_edge.errors import AigcEdgeError, DeviationWarning

DEFAULT = "default"
REDUCED = ("bf16", "fp16")
PRECISIONS = (DEFAULT, EXACT, *REDUCED)


def check_precision(value: object) -> str:
    """`value`, if it is one of PRECISIONS; raises AigcEdgeError otherwise."""
    if not isinstance(value, str) or value not in PRECISIONS:
        raise AigcEdgeError(f"precision is {value!r}: it must be one of {', '.join(PRECISIONS)}")
    return value


def precision_of(manifest: Manifest, format: str, engine: str, requested: str) -> str:
    """What an engine computes floats in: "exact", "bf16" or "fp16".

    "default" is a reduced precision where the bundle's quality card says that the format holds its budget with it and this
    engine, and exact float32 otherwise. Raises AigcEdgeError for a requested precision that the engine does not have here.
    """
    available = precisions(ENGINES[engine])
    if requested == DEFAULT:
        measured = manifest.quality.get(format, {}).get("precisions")
        cards = measured if isinstance(measured, dict) else {}
        return next((name for name in available if _passed(cards.get(name), engine)), EXACT)
    if requested != EXACT and requested not in available:
        raise AigcEdgeError(
            f"the engine {engine} does not compute in {requested} on this CPU: it has {', '.join((DEFAULT, EXACT, *available))}"
        )
    return requested


def precisions(engine: type[Engine]) -> tuple[str, ...]:
    """The reduced precisions that the engine has here, in order of preference."""
    return tuple(name for name in REDUCED if name in engine.precisions())


def warn_of_deviation(manifest: Manifest, component: str, format: str, engine: str, level: int) -> None:
    """Warn with DeviationWarning where the engine computes a network of this format otherwise than where its quality was
    measured."""
    reason = ENGINES[engine].deviates(format)
    if reason is None:
        return
    card = manifest.quality.get(manifest.default_format if format not in manifest.quality else format, {})
    with_engine = card.get("measured", {}).get("engine") if isinstance(card.get("measured"), dict) else None
    warnings.warn(
        f"the {component} in {format} may return other values than those whose quality was measured"
        f"{f' (with {with_engine})' if with_engine else ''}: {reason}; choose the engine onnxruntime, or another format",
        DeviationWarning,
        stacklevel=level,
    )


def _passed(card: object, engine: str) -> bool:
    entry = card.get(engine) if isinstance(card, dict) else None
    return isinstance(entry, dict) and entry.get("passed") is True
