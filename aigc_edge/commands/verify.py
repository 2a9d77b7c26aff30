"""`aigc-edge verify`: compare a bundle's sampling, step by step, with another implementation around the same network."""

from __future__ import annotations

import argparse

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser

ORDER = 45
HELP = "compare a bundle step by step with diffusers"
DESCRIPTION = """\
Run a program of a bundle and the same sampler of another implementation around the same network, from the same noise, and compare
the inputs of the network at every step. Reports the first step that diverges; the exit code is then 1.

  aigc-edge verify digits.aigc --against diffusers
  aigc-edge verify digits.aigc --solver heun --steps 8 --against reference
  aigc-edge verify sd.aigc --scheduler stable-diffusion/scheduler/scheduler_config.json"""


def configure(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle (folder or packed file)")
    parser.add_argument(
        "--against",
        default="diffusers",
        metavar="PEER",
        help="diffusers, or reference: the rows in NumPy, float64 (default: %(default)s)",
    )
    parser.add_argument(
        "--scheduler", metavar="FILE", help="the scheduler_config.json for diffusers (default: the program's own)"
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--program", metavar="NAME", help="a program of the bundle (default: its default)")
    what.add_argument("--solver", metavar="NAME", help="another solver, built from the bundle's schedule")
    what.add_argument("--steps", type=values.whole(1, 10_000), metavar="N", help="another number of steps")
    what.add_argument("--guidance", type=values.real(-1000, 1000), metavar="X", help="guidance scale (default: the program's)")
    what.add_argument("-n", "--samples", type=values.whole(1, 10_000), default=2, metavar="N", help="samples (default: 2)")
    what.add_argument("--seed", type=values.whole(0, 2**63 - 1), default=0, metavar="S", help="seed of the first (default: 0)")
    what.add_argument(
        "--engine", default="onnxruntime", metavar="NAME", help="engine that evaluates the network (default: %(default)s)"
    )
    what.add_argument("--format", metavar="NAME", help="a format of the bundle (default: its default)")
    what.add_argument("--threads", type=values.threads, metavar="N", help="CPU threads (default: all physical cores)")
    parser.add_argument(
        "--tolerance",
        type=values.real(1e-12, 10),
        default=1e-3,
        metavar="X",
        help="relative L2 difference above which a step counts as diverged (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    from aigc_edge.verify import verify

    report = verify(
        arguments.bundle,
        arguments.against,
        program=arguments.program,
        solver=arguments.solver,
        steps=arguments.steps,
        scheduler=arguments.scheduler,
        samples=arguments.samples,
        seed=arguments.seed,
        guidance_scale=arguments.guidance,
        engine=arguments.engine,
        format=arguments.format,
        threads=arguments.threads,
        tolerance=arguments.tolerance,
    )
    print(report)
    return 0 if report.first is None else 1
