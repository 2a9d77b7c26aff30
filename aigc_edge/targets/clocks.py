"""Clock and power settings of a target, to be recorded with every measurement on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aigc_edge.errors import AigcEdgeError


@dataclass(frozen=True)
class Clocks:
    """`record`: commands and files that show the state; `fix`: commands that lock the clocks (most need root); `modes`: the power
    modes by name; `power`: where power is read, hwmon rails as "chip: rail, rail"."""

    record: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    power: tuple[str, ...] = ()

    @staticmethod
    def from_json(value: dict[str, Any]) -> Clocks:
        """Parse the JSON members; raises AigcEdgeError for an unknown one."""
        unknown = sorted(set(value) - set(Clocks.__dataclass_fields__))
        if unknown:
            raise AigcEdgeError(f"clocks have no {', '.join(unknown)}: they have {', '.join(Clocks.__dataclass_fields__)}")
        return Clocks(**{key: tuple(lines) for key, lines in value.items()})
