"""`aigc-edge quantise`: further formats for a bundle, with proof, and a picture of what each layer costs."""

from __future__ import annotations

import argparse

from aigc_edge.commands import values
from aigc_edge.commands.compile import formats, proof, targets
from aigc_edge.commands.parser import Parser
from aigc_edge.commands.progress import Progress
from aigc_edge.hardware import let_threads_sleep

ORDER = 25
HELP = "put further formats into a bundle"
DESCRIPTION = """\
Make further formats from the fp32 networks of a bundle, measure them against fp32 from the same noise, and put them beside the
others. A format that misses the budget is made again with more layers in higher precision; when that does not help the bundle
stays as it was, and the layers to blame are named.

  aigc-edge quantise mine.aigc --format int4 --budget frechet=1.05x --report why.html"""


def configure(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle, folder or file, with the format fp32")
    parser.add_argument("-o", "--output", metavar="BUNDLE", help="write a copy with the formats, and leave the bundle as it is")
    parser.add_argument("--overwrite", action="store_true", help="replace formats that are there already, and the output")
    what = parser.add_argument_group("what to make")
    formats(what, "int8")
    targets(what)
    what.add_argument("--default", action="store_true", help="make the first format the default of the bundle")
    parser.add_argument("--report", type=values.place_for, metavar="FILE", help="write why.html, a picture of every layer, here")
    proof(parser, None)


def run(arguments: argparse.Namespace) -> int:
    let_threads_sleep()
    from aigc_edge.compile.quantise import quantise_bundle
    from aigc_edge.report.layer_page import write
    from aigc_edge.report.summary import render, verified

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
    print(render(verified(written).manifest))
    if arguments.report:
        write(written, arguments.report)
        print(f"\n{arguments.report} shows the layers")
    return 0
