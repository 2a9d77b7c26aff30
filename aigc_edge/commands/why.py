"""`aigc-edge why`: report the error, size and precision of every layer of a bundle's formats."""

from __future__ import annotations

import argparse

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option

ORDER = 45
HELP = "show a bundle's formats layer by layer"
DESCRIPTION = """\
Write an HTML page from the quality card of a bundle: for each format, every layer's error, format, bytes and multiply-adds, the
error of each step, the ranges along the trajectory, and the type that TensorRT's build log shows for each layer.

  aigc-edge why digits.aigc -o why.html"""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle, folder or file")
    option(parser, "-o --output FILE", "default: why.html", type=values.output_file, default="why.html")


def run(arguments: argparse.Namespace) -> int:
    from aigc_edge.report.layer_page import write

    write(arguments.bundle, arguments.output)
    print(f"{arguments.output} shows the formats of {arguments.bundle} layer by layer")
    return 0
