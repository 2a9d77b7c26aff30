"""`aigc-edge bench`: speed, memory, size and quality of a bundle, against peers that sample the same network."""

from __future__ import annotations

import argparse
import sys

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option

ORDER = 50
HELP = "measure speed, memory and quality of a bundle against peers"
DESCRIPTION = """\
Measure a bundle in one interleaved run: each format with the native runtime, and the same network sampled by a plain NumPy
loop, a plain torch loop and a diffusers scheduler, where installed. Quality is reported on the same row as speed.

  aigc-edge bench digits.aigc --json bench.json --html report.html
  aigc-edge bench digits.aigc --runs 20 --quality-images 0          a quick look at speed only"""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle (folder or packed file)")
    out = parser.add_argument_group("output")
    option(out, "--json FILE", "write all figures and raw samples", type=values.output_file)
    option(out, "--html FILE", "write a self-contained report with plots and samples", type=values.output_file)
    what = parser.add_argument_group("what to measure")
    option(what, "--formats LIST", "formats to measure (default: all of the bundle)", type=values.listed, default=[])
    option(what, "--steps N", "solver steps (default: the bundle's)", type=values.whole(1, 10_000))
    option(what, "--solver NAME", "solver (default: the bundle's)")
    option(what, "--guidance X", "guidance scale, 1 is off (default: the program's)", type=values.real(0, 1000))
    how = parser.add_argument_group("how to measure it")
    option(how, "--threads N", "threads per runner (default: %(default)s)", type=values.threads, default=1)
    option(
        how,
        "--device",
        "cuda: the engine torch on a GPU, with the whole loop in one CUDA graph, against a torch loop (default: cpu)",
        choices=("cpu", "cuda"),
        default="cpu",
    )
    option(how, "--runs N", "timed rounds at batch 1 (default: %(default)s)", type=values.whole(1, 100_000), default=100)
    option(how, "--batch N", "the larger batch size (default: %(default)s)", type=values.whole(2, 1024), default=16)
    option(
        how, "--warmup N", "untimed rounds before the timed ones (default: %(default)s)", type=values.whole(0, 1000), default=5
    )
    option(
        how, "--cold-starts N", "fresh processes per configuration (default: %(default)s)", type=values.whole(0, 100), default=3
    )
    option(
        how,
        "--quality-images N",
        "images per format for the judge to score, 0 for none (default: %(default)s)",
        type=values.whole(0, 1_000_000),
        default=1000,
    )
    option(how, "--seed S", "first seed (default: %(default)s)", type=values.whole(0, 2**62), default=0)


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
