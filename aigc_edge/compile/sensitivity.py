"""How much each component of a format costs: images with that component alone in the format, against fp32 from the same noise."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aigc_edge.compile.calibrating import sample_budget
from aigc_edge.compile.evaluator import Evaluator
from aigc_edge.compile.request import REFERENCE, with_limits
from aigc_edge.compile.stage_cache import fingerprint
from aigc_edge.compile.state import CompileState

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

IMAGES, MACS = 4, 3e12  # images for each component, and the multiply-adds of the default program that limit them
RETRIES, STEP = 3, 2.0  # how often the main component is converted again, and by how many dB its PSNR target then rises


class Candidate(NamedTuple):
    """A format of the main component, and the other components that are stored in its companion."""

    format: Format
    weight_only: frozenset[str] = frozenset()


class ComponentErrors:
    """Measures components alone in their format, each file once."""

    def __init__(self, state: CompileState, evaluator: Evaluator) -> None:
        self._state, self._evaluator = state, evaluator
        self._measured: dict[tuple[str, ...], dict[str, Any]] = {}

    def measure(self, format: Format) -> dict[str, dict[str, Any]]:
        """PSNR and centred L2 error by component; nothing where the main component alone is in a format that others may be in."""
        state, name = self._state, format.name
        if not _others(state, format):
            return {}
        count, found = sample_budget(state, IMAGES, MACS, least=1), {}
        for part in state.networks:
            file = state.file(part, name)
            key = (part, *fingerprint(file, file.with_name(f"{file.name}.data")))
            if key not in self._measured:
                others = [other for other in state.networks if other != part]
                draft = state.draft([name, REFERENCE], exact=others)
                self._measured[key] = self._evaluator.compare(draft, name, count) | {"n": count}
            found[part] = self._measured[key]
        return found


def candidates(state: CompileState, format: Format) -> Generator[Candidate, bool, None]:
    """`format`, then, while the budget is missed, what makes the component with the largest error better.

    The main component is converted again with a higher PSNR target, at most RETRIES times; another component is stored in the
    companion. The last candidate has every component there that could be.
    """
    candidate, refined = Candidate(format), 0
    while True:
        if (yield candidate):
            return
        format, weight_only = candidate
        finer = None if refined == RETRIES else _finer(state, format)
        others = _others(state, format)
        worst = _worst(state.stored.get(format.name, {}), others if finer is None else [state.main, *others])
        if worst is None:
            return
        if worst != state.main:
            candidate = Candidate(format, weight_only | {worst})
        elif finer is not None:
            candidate, refined = Candidate(finer, weight_only), refined + 1


def _finer(state: CompileState, format: Format) -> Format | None:
    """The format with a higher PSNR target; None where no further layers can fall back to float."""
    reports = state.reports.get(format.name, {}).values()
    reached = [r["psnr"] for r in reports if r.get("nodes") and r.get("psnr") is not None]
    if not reached or not hasattr(format, "psnr"):
        return None
    finer: Format = with_limits(format, psnr=max(format.psnr, min(reached)) + STEP)
    return finer


def _others(state: CompileState, format: Format) -> list[str]:
    """The components beside the main one that are in the format itself, and could be in its companion."""
    stored = state.stored.get(format.name, {}).items() if format.everywhere else ()
    return [part for part, entry in stored if part != state.main and entry["format"] == format.name]


def _worst(stored: Mapping[str, Mapping[str, Any]], parts: Collection[str]) -> str | None:
    """The one of `parts` whose error alone is the largest; those that were not measured count last."""

    def error(part: str) -> float:
        value = stored.get(part, {}).get("psnr", math.inf)
        return math.inf if value is None else float(value)  # None: equal

    return min(parts, key=error, default=None)
