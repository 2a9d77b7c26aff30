"""Which formats an engine and a target run: what a format requires against what engines declare, at a compute capability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigc_edge.engines.base import ENGINES, Engine

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format
    from aigc_edge.targets import Target


def least_capability(format: type[Format], engine: type[Engine]) -> int | None:
    """The compute capability, times ten, from which the engine runs the format as such (0: any device); None: it does not."""
    if not set(format.requires) <= set(engine.features):
        return None
    needed = max((engine.features[name] for name in format.requires), default=0)
    return max(needed, format.least_sm) if "cuda" in engine.devices else needed


def runs_on(format: type[Format], target: Target) -> bool:
    """Whether the target's engine runs the format as such there; False where that engine is not known here."""
    if target.engine not in ENGINES:
        return False
    least = least_capability(format, ENGINES[target.engine])
    return least is not None and least <= (target.sm or 0)


def formats_of(target: Target) -> tuple[str, ...]:
    """Names of all formats that the target's engine runs as such there."""
    from aigc_edge.compress.format import FORMATS

    return tuple(name for name in FORMATS if runs_on(FORMATS[name], target))
