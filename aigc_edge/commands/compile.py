"""`aigc-edge compile`: from a training run to a bundle, with proof that it still generates what the original did."""

from __future__ import annotations

import argparse
import sys

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser
from aigc_edge.hardware import let_threads_sleep

ORDER = 20
HELP = "make a bundle from a trained run"
DESCRIPTION = """\
Export a trained run, make the formats that are asked for, build engines for targets that have them, and measure every format
against fp32 from the same noise. A bundle that misses its quality budget is not written.

  aigc-edge compile runs/digits -o digits.aigc --format fp32 --format int8 --target x86-cpu --target rtx"""


def configure(parser: Parser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a folder that 'aigc-edge train' wrote")
    parser.add_argument("-o", "--output", metavar="BUNDLE", help="the bundle to write (default: the run's name with .aigc)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle if there is one")
    what = parser.add_argument_group("what to make")
    what.add_argument(
        "--format",
        dest="formats",
        action="append",
        metavar="NAME",
        help="fp32, fp16 or int8, with options behind a colon (int8:psnr=35); may be repeated, the first is the bundle's default "
        "(default: fp32 and int8)",
    )
    what.add_argument(
        "--target",
        dest="targets",
        action="append",
        metavar="NAME",
        help="a device or a group of them ('aigc-edge targets' lists them), or auto: this machine; may be repeated "
        "(default: x86-cpu)",
    )
    what.add_argument("--solver", default="dpmpp_2m", metavar="NAME", help="solver of the default program (default: %(default)s)")
    what.add_argument(
        "--steps",
        type=values.whole(1, 10_000),
        default=10,
        metavar="N",
        help="steps of the default program (default: %(default)s)",
    )
    what.add_argument(
        "--guidance",
        type=values.real(0, 1000),
        default=2.0,
        metavar="X",
        help="guidance scale of the programs, 1 is off (default: %(default)s)",
    )
    what.add_argument(
        "--no-weights",
        dest="weights",
        action="store_false",
        help="leave out the copy of the weights that --engine torch loads: a smaller bundle",
    )
    what.add_argument(
        "--no-schedule-constants",
        dest="schedule_constants",
        action="store_false",
        help="leave in the network what depends on the timestep alone, instead of evaluating it once, here",
    )
    proof = parser.add_argument_group("how to prove it")
    proof.add_argument(
        "--samples",
        type=values.whole(2, 1_000_000),
        default=1000,
        metavar="N",
        help="images a format that are judged (default: %(default)s)",
    )
    proof.add_argument(
        "--budget",
        type=values.real(1),
        default=1.1,
        metavar="X",
        help="refuse a format whose Fréchet distance exceeds X times that of fp32 (default: %(default)s)",
    )
    proof.add_argument(
        "--seed", type=values.whole(0, 2**62), default=0, metavar="S", help="seed of calibration and judging (default: 0)"
    )
    proof.add_argument("--threads", type=values.threads, metavar="N", help="CPU threads (default: all physical cores)")


def run(arguments: argparse.Namespace) -> int:
    let_threads_sleep()
    from pathlib import Path

    from aigc_edge import inspect
    from aigc_edge.compile import compile_run

    source = Path(arguments.run_folder)
    output = arguments.output or f"{source.resolve().name}.aigc"
    compile_run(
        source,
        output,
        formats=arguments.formats or ["fp32", "int8"],
        targets=arguments.targets or ["x86-cpu"],
        solver=arguments.solver,
        steps=arguments.steps,
        guidance_scale=arguments.guidance,
        samples=arguments.samples,
        budget=arguments.budget,
        weights=arguments.weights,
        schedule_constants=arguments.schedule_constants,
        overwrite=arguments.overwrite,
        seed=arguments.seed,
        threads=arguments.threads,
        progress=Progress(),
    )
    print(inspect.render(inspect.describe(output)))
    print(f"\n{output} is written: aigc-edge sample {output} -o samples.png")
    return 0


class Progress:
    """What is being done: one line that is overwritten on a terminal, one line a stage in a log."""

    def __init__(self) -> None:
        self._stage = ""
        self._terminal = sys.stderr.isatty()

    def __call__(self, what: str, done: float, seconds_left: float) -> None:
        if self._terminal:
            left = f", about {seconds_left:.0f} s left" if 0 < seconds_left < 1e6 else ""
            print(f"\r\x1b[2K{done:4.0%} {what}{left}", end="\n" if done >= 1 else "", file=sys.stderr, flush=True)
        elif what != self._stage:
            print(what, file=sys.stderr, flush=True)
        self._stage = what
