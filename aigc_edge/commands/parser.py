"""argparse for `aigc-edge`: one-sentence errors, help that keeps the layout of examples, and options that are added lazily."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

FAILED = 2


class Formatter(argparse.RawDescriptionHelpFormatter):
    """A help formatter that keeps the layout of examples and leaves room for the options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


class Parser(argparse.ArgumentParser):
    """A parser whose errors have the same form as all other errors of the command line.

    `late(self)` is called only when this parser is used: it adds options that are expensive to determine.
    """

    late: Callable[[Parser], None] | None = None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        chosen: dict[str, Any] = {"formatter_class": Formatter, "allow_abbrev": False}
        super().__init__(*arguments, **(chosen | keywords))

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        late, self.late = self.late, None
        if late is not None:
            late(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"aigc-edge: {message}; see '{self.prog} --help'\n")


def option(group: argparse._ActionsContainer, usage: str, help: str, **keywords: Any) -> None:
    """Add the option or argument that `usage` shows, such as "-o --output FILE": its names, and the word for its value."""
    words = usage.split()
    if len(words) > 1 and not words[-1].startswith("-"):
        keywords["metavar"] = words.pop()
    group.add_argument(*words, help=help, **keywords)
