"""`aigc-edge tune`: fit the coefficients of a sampling program to a bundle's own network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option
from aigc_edge.hardware import let_threads_sleep

if TYPE_CHECKING:
    from aigc_edge.diffusion import Program

ORDER = 25
HELP = "fit a sampling program to a bundle's own network"
DESCRIPTION = """\
Fit the noise levels and coefficients of a few-step sampling program to many-step samples of the bundle's own network from the
same noise, and add it to the bundle. The network does not change; tuning takes minutes for a small one.

  aigc-edge tune digits.aigc --nfe 8
  aigc-edge tune digits.aigc --nfe 4,6,8 --guidance 3
  aigc-edge sample digits.aigc --program tuned-8

Ctrl-C leaves the bundle unchanged and keeps the search state in BUNDLE.tuning.json; the same command resumes from it."""


def configure(parser: Parser) -> None:
    evaluations = values.whole(1, 15)
    option(parser, "bundle BUNDLE", "a bundle (folder or packed file)")
    what = parser.add_argument_group("what to tune")
    option(
        what,
        "--nfe N",
        "network evaluations, 1 to 15, or a comma-separated list of them; may be repeated (default: 8)",
        action="append",
        type=lambda text: [evaluations(part) for part in values.listed(text)],
    )
    option(
        what,
        "--guidance X",
        "guidance scale to tune for, 1 is off (default: that of the default program)",
        type=values.real(0, 1000),
    )
    option(what, "--format NAME", "format of the network to tune for (default: fp32, else the bundle's default)")
    option(what, "--default", "make it the default program of the bundle", action="store_true")
    option(what, "--overwrite", "replace a program of the same name", action="store_true")
    how = parser.add_argument_group("how to tune it")
    option(
        how,
        "--samples N",
        "noise samples for fitting, a quarter of them for early stopping only (default: %(default)s)",
        type=values.whole(8, 1_000_000),
        default=384,
    )
    option(
        how,
        "--held-out N",
        "held-out noise samples for the reported figures (default: %(default)s)",
        type=values.whole(2, 1_000_000),
        default=256,
    )
    option(
        how,
        "--time-limit SECONDS",
        "stop the search after this time and use the best result; the evaluation takes extra time (default: none)",
        type=values.real(0.001),
    )
    option(how, "--seed S", "seed of all noise (default: 0)", type=values.whole(0, 2**62), default=0)
    option(how, "--engine NAME", "onnxruntime, tensorrt, torch (default: %(default)s)", default="onnxruntime")
    option(how, "--threads N", "CPU threads (default: all physical cores)", type=values.threads)


def run(arguments: argparse.Namespace) -> int:
    let_threads_sleep()
    from aigc_edge.commands.progress import Progress
    from aigc_edge.tuning.checkpoint import checkpoint_file
    from aigc_edge.tuning.tune import tune_bundle

    try:
        programs = tune_bundle(
            arguments.bundle,
            [number for part in arguments.nfe or [[8]] for number in part],
            guidance_scale=arguments.guidance,
            samples=arguments.samples,
            held_out=arguments.held_out,
            seed=arguments.seed,
            threads=arguments.threads,
            format=arguments.format,
            engine=arguments.engine,
            default=arguments.default,
            overwrite=arguments.overwrite,
            time_limit=arguments.time_limit,
            progress=Progress(),
        )
    except KeyboardInterrupt:
        checkpoint = checkpoint_file(Path(arguments.bundle))
        if checkpoint.exists():
            print(f"\n{checkpoint} holds the best tables so far: the same command resumes from them", file=sys.stderr)
        raise
    print(figures(programs))
    print(f"\nPSNR to {next(iter(programs.values())).meta['reference']} from the same {arguments.held_out} held-out noises")
    print(f"{arguments.bundle} is written: aigc-edge sample {arguments.bundle} --program {next(iter(programs))}")
    return 0


def figures(programs: Mapping[str, Program]) -> str:
    """A table of one line per program: its own figures, then those of the best standard solver with as many evaluations."""
    from aigc_edge import text

    rows = []
    for name, program in programs.items():
        meta = program.meta
        distances = [f"{meta[key]:.3g}" if key in meta else "–" for key in ("frechet", "best_standard_frechet")]
        own, best = f"{meta['psnr']:.1f} dB", f"{meta['best_standard_psnr']:.1f} dB"
        rows.append([name, f"{program.nfe}", own, distances[0], meta["best_standard"], best, distances[1]])
    header = ["program", "evaluations", "PSNR", "Fréchet", "best standard solver", "PSNR", "Fréchet"]
    return text.table(header, rows, right=[1, 2, 3, 5, 6])
