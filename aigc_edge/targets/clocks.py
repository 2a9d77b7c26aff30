"""Clock and power settings of a target, to be recorded with every measurement on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clocks:
    """`record`: commands and files that show the state; `fix`: commands that lock the clocks (most need root); `modes`: the power
    modes by name; `power`: where power is read, hwmon rails as "chip: rail, rail"."""

    record: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    power: tuple[str, ...] = ()
