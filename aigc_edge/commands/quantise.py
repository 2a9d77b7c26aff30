"""`aigc-edge quantise`: add formats to a bundle, with their evaluation and a report of every layer."""

from __future__ import annotations

import argparse

from aigc_edge.commands import values
from aigc_edge.commands.compile import formats, quality_options, targets
from aigc_edge.commands.parser import Parser, option
from aigc_edge.commands.progress import Progress
from aigc_edge.hardware import let_threads_sleep

ORDER = 25
HELP = "add formats to a bundle"
DESCRIPTION = """\
Convert the fp32 networks of a bundle to further formats, evaluate them against fp32 from the same noise, and add them to the
bundle. A format that misses the budget is converted again with more layers in higher precision; if it still misses, the bundle
is left unchanged and the most sensitive layers are listed.

  aigc-edge quantise mine.aigc --format int4 --budget frechet=1.05x --report why.html"""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle, folder or file, with the format fp32")
    option(parser, "-o --output BUNDLE", "write a copy with the formats, and leave the bundle unchanged")
    option(parser, "--overwrite", "replace formats that the bundle already has, and the output", action="store_true")
    what = parser.add_argument_group("what to add")
    formats(what, "int8")
    targets(what)
    option(what, "--default", "make the first format the default of the bundle", action="store_true")
    option(parser, "--report FILE", "write an HTML report of every layer to this file", type=values.output_file)
    quality_options(parser, None)


def run(arguments: argparse.Namespace) -> int:
    let_threads_sleep()
    from aigc_edge.bundle.bundle import Bundle
    from aigc_edge.compile.quantise import quantise_bundle
    from aigc_edge.report.layer_page import write
    from aigc_edge.report.summary import render

    quantise_bundle(
        arguments.bundle,
        arguments.formats or ["int8"],
        out=arguments.output,
        targets=arguments.targets,
        budget=arguments.budget,
        samples=arguments.samples,
        default=arguments.default,
        overwrite=arguments.overwrite,
        seed=arguments.seed,
        threads=arguments.threads,
        progress=Progress(),
    )
    written = arguments.output or arguments.bundle
    print(render(Bundle.open(written, verify=True).manifest))
    if arguments.report:
        write(written, arguments.report)
        print(f"\n{arguments.report} shows the layers")
    return 0
