"""`aigc-edge verify`: compare a bundle's sampling, step by step, with another implementation around the same network."""

from __future__ import annotations

import argparse

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option

ORDER = 45
HELP = "compare a bundle step by step with diffusers"
DESCRIPTION = """\
Run a program of a bundle and the same sampler of another implementation around the same network, from the same noise, and compare
the inputs of the network at every step. Reports the first step that diverges; the exit code is then 1.

  aigc-edge verify digits.aigc --against diffusers
  aigc-edge verify digits.aigc --solver heun --steps 8 --against reference
  aigc-edge verify sd.aigc --scheduler stable-diffusion/scheduler/scheduler_config.json"""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle (folder or packed file)")
    option(
        parser,
        "--against PEER",
        "diffusers, or reference: the rows in NumPy, float64 (default: %(default)s)",
        default="diffusers",
    )
    option(parser, "--scheduler FILE", "the scheduler_config.json for diffusers (default: the program's own)")
    what = parser.add_argument_group("what to run")
    option(what, "--program NAME", "a program of the bundle (default: its default)")
    option(what, "--solver NAME", "another solver, built from the bundle's schedule")
    option(what, "--steps N", "another number of steps", type=values.whole(1, 10_000))
    option(what, "--guidance X", "guidance scale (default: the program's)", type=values.real(-1000, 1000))
    option(what, "-n --samples N", "samples (default: 2)", type=values.whole(1, 10_000), default=2)
    option(what, "--seed S", "seed of the first (default: 0)", type=values.whole(0, 2**63 - 1), default=0)
    option(what, "--engine NAME", "engine that evaluates the network (default: %(default)s)", default="onnxruntime")
    option(what, "--format NAME", "a format of the bundle (default: its default)")
    option(what, "--threads N", "CPU threads (default: all physical cores)", type=values.threads)
    option(
        parser,
        "--tolerance X",
        "relative L2 difference above which a step counts as diverged (default: %(default)s)",
        type=values.real(1e-12, 10),
        default=1e-3,
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
