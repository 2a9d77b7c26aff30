"""The commands of `aigc-edge`: one module each, discovered by a scan, and those of other distributions by entry points.

A module gives `ORDER` (its place in the help), `HELP` (one line), `DESCRIPTION` (a few), `configure(parser)` and
`run(arguments)`, which returns the exit code. Modules import nothing heavy at their top: `aigc-edge --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Protocol, cast

from aigc_edge.commands.parser import Parser
from aigc_edge.registry import extensions, skip


class Command(Protocol):
    """What a module of this package looks like."""

    ORDER: int
    HELP: str
    DESCRIPTION: str

    def configure(self, parser: Parser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def commands() -> dict[str, Command]:
    """Name → command of every module here that has a `run`, in the order of the help."""
    modules = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    found = {name: cast(Command, module) for name, module in modules.items() if hasattr(module, "run")}
    return dict(sorted(found.items(), key=lambda item: item[1].ORDER))


def extension_commands() -> dict[str, Command]:
    """Name → command of other distributions: what entry points of the group `aigc_edge.commands` load, shaped like a module here.

    Looking for them takes longer than everything else at the start: do so for a name that is not known here.
    """
    found = {}
    for point, command in extensions("aigc_edge.commands"):
        lacking = [name for name in ("ORDER", "HELP", "DESCRIPTION", "configure", "run") if not hasattr(command, name)]
        if lacking:
            skip(point, f"is no command: it has no {', '.join(lacking)}")
        else:
            found[point.name] = cast(Command, command)
    return found
