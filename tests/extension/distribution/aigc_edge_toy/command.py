"""`aigc-edge toy`: says hello."""

from __future__ import annotations

import argparse

ORDER = 100
HELP = "say hello"
DESCRIPTION = "Say hello."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")


def run(arguments: argparse.Namespace) -> int:
    print(f"hello {arguments.name}")
    return 0
