"""`aigc-edge bench`: speed, memory, size and quality of a bundle, against peers that sample the same network."""

from __future__ import annotations

import argparse
import sys

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser

ORDER = 50
HELP = "measure speed, memory and quality of a bundle against peers"
DESCRIPTION = """\
Measure a bundle in one interleaved run: each format with the native runtime, and the same network sampled by a plain NumPy
loop, a plain torch loop and a diffusers scheduler, where installed. Quality is reported on the same row as speed.

  aigc-edge bench digits.aigc --json bench.json --html report.html
  aigc-edge bench digits.aigc --runs 20 --quality-images 0          a quick look at speed only"""


def configure(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle (folder or packed file)")
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=values.output_file, metavar="FILE", help="write all figures and raw samples")
    out.add_argument(
        "--html", type=values.output_file, metavar="FILE", help="write a self-contained report with plots and samples"
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--formats", type=values.listed, default=[], metavar="LIST", help="formats to measure (default: all of the bundle)"
    )
    what.add_argument("--steps", type=values.whole(1, 10_000), metavar="N", help="solver steps (default: the bundle's)")
    what.add_argument("--solver", metavar="NAME", help="solver (default: the bundle's)")
    what.add_argument(
        "--guidance", type=values.real(0, 1000), metavar="X", help="guidance scale, 1 is off (default: the program's)"
    )
    how = parser.add_argument_group("how to measure it")
    how.add_argument("--threads", type=values.threads, default=1, metavar="N", help="threads per runner (default: %(default)s)")
    how.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: the engine torch on a GPU, with the whole loop in one CUDA graph, against a torch loop (default: cpu)",
    )
    how.add_argument(
        "--runs", type=values.whole(1, 100_000), default=100, metavar="N", help="timed rounds at batch 1 (default: %(default)s)"
    )
    how.add_argument(
        "--batch", type=values.whole(2, 1024), default=16, metavar="N", help="the larger batch size (default: %(default)s)"
    )
    how.add_argument(
        "--warmup",
        type=values.whole(0, 1000),
        default=5,
        metavar="N",
        help="untimed rounds before the timed ones (default: %(default)s)",
    )
    how.add_argument(
        "--cold-starts",
        type=values.whole(0, 100),
        default=3,
        metavar="N",
        help="fresh processes per configuration (default: %(default)s)",
    )
    how.add_argument(
        "--quality-images",
        type=values.whole(0, 1_000_000),
        default=1000,
        metavar="N",
        help="images per format for the judge to score, 0 for none (default: %(default)s)",
    )
    how.add_argument("--seed", type=values.whole(0, 2**62), default=0, metavar="S", help="first seed (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from aigc_edge.bench import report, runner, suite
    from aigc_edge.errors import AigcEdgeError
    from aigc_edge.files import write_json

    if 0 < arguments.quality_images < 2:
        raise AigcEdgeError(
            "--quality-images 1 was given: a distance between distributions needs at least 2, and hundreds to be meaningful"
        )
    workload = runner.open_workload(
        arguments.bundle, arguments.solver, arguments.steps, arguments.guidance, arguments.threads, arguments.device
    )
    settings = suite.Settings(
        runs=arguments.runs,
        batch=arguments.batch,
        warmup=arguments.warmup,
        cold_starts=arguments.cold_starts,
        quality_images=arguments.quality_images,
        seed=arguments.seed,
        formats=tuple(arguments.formats),
    )
    figures = suite.bench(workload, settings, say)
    say("")
    print(report.text(figures))
    if arguments.json:
        write_json(arguments.json, figures)
        print(f"figures: {arguments.json}")
    if arguments.html:
        report.write_html(arguments.html, figures, workload)
        print(f"report: {arguments.html}")
    return 0


def say(message: str) -> None:
    """Show the current activity on one overwritten line of a terminal; nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{message}", end="", file=sys.stderr, flush=True)
