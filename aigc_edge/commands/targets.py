"""`aigc-edge targets`: list the devices that a bundle can be compiled for, and those that match this machine."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aigc_edge.commands.parser import Parser, option

if TYPE_CHECKING:
    from aigc_edge.targets import Target

ORDER = 60
HELP = "list the devices that bundles can be compiled for"
DESCRIPTION = """\
List the devices that a bundle can be compiled for: compute capability, memory, bandwidth and dense T(FL)OP/s as stated by the
manufacturer, where their plans are built ("anywhere": by TensorRT-RTX, "there": on the device, by 'aigc-edge build'), and the
formats that they run natively. Targets that match this machine are marked; 'aigc-edge compile --target auto' selects them.

  aigc-edge targets
  aigc-edge targets --json"""

RATES = ("fp32", "fp16", "int8", "fp8", "fp4")
BUILT = {"tensorrt_rtx": "anywhere", "tensorrt": "there"}  # by which TensorRT


def configure(parser: Parser) -> None:
    option(parser, "--json", "print JSON instead of text", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    import json

    from aigc_edge import targets
    from aigc_edge.compile.request import this_machine

    own = this_machine()
    known = targets.all_targets().values()
    formats = _formats_by_target(known)
    if arguments.json:
        print(json.dumps([_facts(target, formats) | {"here": target.name in own} for target in known], indent=1))
        return 0
    print(_devices(known, own))
    print("\n* this machine\n")
    print(_formats(formats))
    return 0


def _formats_by_target(known: Iterable[Target]) -> dict[str, tuple[str, ...]] | None:
    """The formats that each target runs; None if the packages that define formats are not installed."""
    from aigc_edge.engines.formats import formats_of

    try:
        return {target.name: formats_of(target) for target in known}
    except ModuleNotFoundError:
        return None


def _facts(target: Target, formats: dict[str, tuple[str, ...]] | None) -> dict[str, Any]:
    import dataclasses

    from aigc_edge.engines.plans.support import limits_of

    limits = [{k: getattr(limit, k) for k in ("format", "operator", "runs", "why", "module")} for limit in limits_of(target)]
    return dataclasses.asdict(target) | {"formats": None if formats is None else formats[target.name], "limits": limits}


def _devices(known: Iterable[Target], own: Iterable[str]) -> str:
    from aigc_edge.text import table

    rows = []
    for target in known:
        rates = target.tops or {}
        figures = [target.sm, target.memory_gb, target.bandwidth_gbs, *(rates.get(name) for name in RATES)]
        device = ", ".join(target.members) or target.title.partition(" (")[0]
        cells = ["" if value is None else f"{value:g}" for value in figures]
        rows.append([("* " if target.name in own else "  ") + target.name, device, *cells, BUILT.get(target.flavour or "", "")])
    header = ["  target", "device", "SM", "GB", "GB/s", *RATES, "built"]
    return table(header, rows, indent=0, right=range(2, 5 + len(RATES)))


def _formats(formats: dict[str, tuple[str, ...]] | None) -> str:
    """The formats, listed once for all targets that run the same ones."""
    if formats is None:
        return "To list the formats that each target runs natively, install the compiler: pip install 'aigc-edge[train]'"
    groups: dict[tuple[str, ...], list[str]] = {}
    for target, names in formats.items():
        if names:
            groups.setdefault(names, []).append(target)
    lines = ["Formats that run natively (--json adds their limits, the sources of the figures, clocks and power):"]
    for names, members in groups.items():
        lines.append(textwrap.fill(", ".join(members), 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
        lines.append(textwrap.fill(" ".join(names), 100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)
