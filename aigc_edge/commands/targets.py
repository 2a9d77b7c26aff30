"""`aigc-edge targets`: the devices that a bundle can be compiled for, and which of them this machine is."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aigc_edge.commands.parser import Parser

if TYPE_CHECKING:
    from aigc_edge.targets import Target

ORDER = 60
HELP = "list the devices that can be compiled for"
DESCRIPTION = """\
List the devices that a bundle can be compiled for: compute capability, memory, bandwidth and dense T(FL)OP/s as their makers
state them, where their plans are built ("anywhere": by TensorRT-RTX, "there": on the device, by 'aigc-edge build'), and the
formats that run as such. Those that this machine is are marked; 'aigc-edge compile --target auto' takes them.

  aigc-edge targets
  aigc-edge targets --json"""

RATES = ("fp32", "fp16", "int8", "fp8", "fp4")
BUILT = {"tensorrt_rtx": "anywhere", "tensorrt": "there"}  # by which TensorRT


def configure(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    import json

    from aigc_edge import targets
    from aigc_edge.compile.request import this_machine

    own = this_machine()
    every = targets.all_targets().values()
    formats = _formats_by_target(every)
    if arguments.json:
        print(json.dumps([_facts(target, formats) | {"here": target.name in own} for target in every], indent=1))
        return 0
    print(_devices(every, own))
    print("\n* this machine\n")
    print(_formats(formats))
    return 0


def _formats_by_target(every: Iterable[Target]) -> dict[str, tuple[str, ...]] | None:
    """The formats that each target runs; None where what formats are made with is not installed."""
    from aigc_edge.engines.formats import formats_of

    try:
        return {target.name: formats_of(target) for target in every}
    except ModuleNotFoundError:
        return None


def _facts(target: Target, formats: dict[str, tuple[str, ...]] | None) -> dict[str, Any]:
    import dataclasses

    from aigc_edge.engines.tensorrt_support import limits_of

    limits = [{k: getattr(limit, k) for k in ("format", "operator", "runs", "why", "module")} for limit in limits_of(target)]
    return dataclasses.asdict(target) | {"formats": None if formats is None else formats[target.name], "limits": limits}


def _devices(every: Iterable[Target], own: Iterable[str]) -> str:
    from aigc_edge.text import table

    rows = []
    for target in every:
        rates = target.tops or {}
        figures = [target.sm, target.memory_gb, target.bandwidth_gbs, *(rates.get(name) for name in RATES)]
        device = ", ".join(target.members) or target.title.partition(" (")[0]
        cells = ["" if value is None else f"{value:g}" for value in figures]
        rows.append([("* " if target.name in own else "  ") + target.name, device, *cells, BUILT.get(target.flavour or "", "")])
    header = ["  target", "device", "SM", "GB", "GB/s", *RATES, "built"]
    return table(header, rows, indent=0, right=range(2, 5 + len(RATES)))


def _formats(formats: dict[str, tuple[str, ...]] | None) -> str:
    """The formats, once for all targets that have the same."""
    if formats is None:
        return (
            "The formats that run as such are listed where what they are made with is installed: pip install 'aigc-edge[train]'"
        )
    groups: dict[tuple[str, ...], list[str]] = {}
    for target, names in formats.items():
        if names:
            groups.setdefault(names, []).append(target)
    lines = ["Formats that run as such (--json adds what limits them, the sources of the figures, clocks, power):"]
    for names, members in groups.items():
        lines.append(textwrap.fill(", ".join(members), 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
        lines.append(textwrap.fill(" ".join(names), 100, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)
