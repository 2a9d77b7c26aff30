"""The commands of `aigc-edge`: one module each, discovered automatically, and those of other distributions by entry points.

A module defines `ORDER` (its position in the help), `HELP` (one line), `DESCRIPTION` (a few lines), `configure(parser)` and
`run(arguments)`, which returns the exit code. Modules import nothing heavy at the top level, so that `aigc-edge --help` is fast.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Protocol, cast

from aigc_edge.commands.parser import Parser
from aigc_edge.registry import extensions, skip


class Command(Protocol):
    """The interface of a command module."""

    ORDER: int
    HELP: str
    DESCRIPTION: str

    def configure(self, parser: Parser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


def commands() -> dict[str, Command]:
    """The commands of this package by name, in the order of the help: every module that has a `run`."""
    modules = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    by_name = {name: cast(Command, module) for name, module in modules.items() if hasattr(module, "run")}
    return dict(sorted(by_name.items(), key=lambda item: item[1].ORDER))


def extension_commands() -> dict[str, Command]:
    """The commands of other distributions by name: the modules that entry points of the group `aigc_edge.commands` load.

    Searching for entry points dominates the start-up time: do so only for an unknown command.
    """
    by_name = {}
    for point, command in extensions("aigc_edge.commands"):
        missing = [name for name in ("ORDER", "HELP", "DESCRIPTION", "configure", "run") if not hasattr(command, name)]
        if missing:
            skip(point, f"is not a command: it has no {', '.join(missing)}")
        else:
            by_name[point.name] = cast(Command, command)
    return by_name
