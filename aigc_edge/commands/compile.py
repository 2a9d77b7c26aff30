"""`aigc-edge compile`: compile a trained generator into a bundle, with every format evaluated against the original."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser
from aigc_edge.commands.progress import Progress
from aigc_edge.hardware import let_threads_sleep

if TYPE_CHECKING:
    from aigc_edge.sources.base import SourceOptions

ORDER = 20
HELP = "compile a trained generator into a bundle"
DESCRIPTION = """\
Export a generator, convert it to the requested formats, build engines for the targets that need them, and evaluate every format
against fp32 from the same noise. Formats that miss the quality budget are left out, with exit code 2. Finished stages are
kept when the compilation is interrupted: the same command resumes from them.

  aigc-edge compile runs/digits -o digits.aigc --format fp32 --format int8 --target x86-cpu --target rtx
  aigc-edge compile ./stable-diffusion -o sd.aigc --format int8 --budget psnr=30 --size 512x512 --size 768x512
  aigc-edge compile my_package:build_generator -o mine.aigc --format fp8 --target rtx-50
  aigc-edge compile net.onnx --role denoiser --prediction v --schedule betas=scaled_linear -o net.aigc"""

DEFAULT_FORMATS, DEFAULT_TARGETS = ("fp32", "int8"), ("x86-cpu",)
FRECHET = 1.1  # the default budget where real images are known, as a multiple of the distance of fp32


def configure(parser: Parser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder that 'aigc-edge train' wrote, a diffusers folder, an ONNX file, or package:function that returns a module",
    )
    parser.add_argument("-o", "--output", metavar="BUNDLE", help="the bundle to write (default: the source's name with .aigc)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle if it exists")
    what = parser.add_argument_group("what to compile")
    formats(what, "fp32 and int8")
    targets(what)
    what.add_argument("--solver", metavar="NAME", help="solver of the default program (default: the source's own, or dpmpp_2m)")
    what.add_argument(
        "--steps",
        type=values.whole(1, 10_000),
        metavar="N",
        help="steps of the default program (default: the source's own, or 10)",
    )
    what.add_argument(
        "--guidance",
        type=values.real(0, 1000),
        metavar="X",
        help="guidance scale of the programs, 1 is off (default: the source's own; 2 for runs with classes)",
    )
    what.add_argument(
        "--no-weights",
        dest="weights",
        action="store_false",
        help="omit the copy of the weights that --engine torch needs, for a smaller bundle",
    )
    what.add_argument(
        "--no-schedule-constants",
        dest="schedule_constants",
        action="store_false",
        help="keep the layers that depend on the timestep alone in the network, instead of precomputing their outputs",
    )
    source_arguments(parser)
    quality_options(parser, FRECHET)


def source_arguments(parser: Parser) -> None:
    """Add the options that describe a source which does not describe itself."""
    group = parser.add_argument_group("source description, where the source itself has none")
    group.add_argument(
        "--role", choices=("denoiser", "decoder"), help="role of an ONNX file or module: evaluated at each step, or once"
    )
    group.add_argument("--prediction", metavar="NAME", help="what a denoiser predicts: epsilon, v, x0, flow or edm")
    group.add_argument(
        "--schedule",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a denoiser's training schedule (betas=scaled_linear, train_steps=1000, sigma_max=80 …); may be repeated",
    )
    group.add_argument(
        "--classes", type=values.whole(1, 1_000_000), metavar="N", help="number of classes of an ONNX file or module"
    )
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=ROLE",
        help="the role of an ONNX file's input that its name and type do not reveal: sample, timestep or class; may be repeated",
    )
    group.add_argument(
        "--size",
        dest="sizes",
        type=values.size,
        action="append",
        metavar="HxW",
        help="height and width of the images, for networks of variable size; may be repeated: the bundle then serves every size "
        "with the same weights, the first by default",
    )
    fed = group.add_mutually_exclusive_group()
    fed.add_argument(
        "--calibration",
        metavar="FILE.npz",
        type=values.arrays_file,
        help="what a network of one evaluation takes: arrays named as its inputs, samples along the first axis; formats are "
        "calibrated and compared on them (a denoiser is on the states of its own program)",
    )
    fed.add_argument(
        "--inputs",
        dest="calibration",
        metavar="DISTRIBUTION",
        type=values.distribution,
        help="the same as a distribution: normal, uniform (from -1 to 1), uniform:LOW:HIGH or sphere (default: the values of the "
        "example sample, normal where there are none)",
    )
    group.add_argument("--data", metavar="NAME", help="real images for the quality scores: a data set or a folder")
    group.add_argument("--prompts", metavar="FILE", help="prompts for calibration and evaluation, one per line")


def formats(group: argparse._ArgumentGroup, default: str) -> None:
    """Add --format."""
    group.add_argument(
        "--format",
        dest="formats",
        action="append",
        metavar="NAME",
        help="fp32, fp16, int8, int4 and others (an unknown one lists them all), with options after a colon (int8:psnr=35); may "
        f"be repeated, the first is the bundle's default (default: {default})",
    )


def targets(group: argparse._ArgumentGroup) -> None:
    """Add --target."""
    group.add_argument(
        "--target",
        dest="targets",
        action="append",
        metavar="NAME",
        help="a device or a group of them ('aigc-edge targets' lists them), or auto: this machine; may be repeated "
        "(default: x86-cpu)",
    )


def quality_options(parser: Parser, frechet: float | None) -> None:
    """Add the options of the evaluation; `frechet` is the default budget where real images are known."""
    group = parser.add_argument_group("quality")
    group.add_argument("--samples", type=values.whole(2, 1_000_000), metavar="N", help="images per format for the evaluation")
    group.add_argument(
        "--budget",
        action="append",
        metavar="NAME=X",
        help="quality that every format must reach against fp32 from the same noise: psnr=30 (dB, at least; the peak is the "
        "range of fp32's own samples), centred_l2=0.3 (error relative to what varies in them, at most), ssim=0.9 (of images, at "
        "least), frechet=1.05x (times that of fp32, at most); may be repeated (default: each format's own option psnr, which is "
        "30 for int8, with the errors that it stands for"
        + ("" if frechet is None else f", and frechet={frechet:g}x where real images are known")
        + "). Formats that miss it are left out: the others are written, and the exit code is 2",
    )
    group.add_argument(
        "--seed", type=values.whole(0, 2**62), default=0, metavar="S", help="seed of calibration and evaluation (default: 0)"
    )
    group.add_argument("--threads", type=values.threads, metavar="N", help="CPU threads (default: all physical cores)")


def source_options(arguments: argparse.Namespace) -> SourceOptions:
    """The values of the options that `source_arguments` adds."""
    from aigc_edge.sources.base import SourceOptions

    sizes = list(dict.fromkeys(arguments.sizes or [None]))
    return SourceOptions(
        role=arguments.role,
        prediction=arguments.prediction,
        schedule=values.pairs(arguments.schedule, "--schedule"),
        size=sizes[0],
        further_sizes=tuple(sizes[1:]),
        data=arguments.data,
        prompts=values.lines(arguments.prompts),
        classes=arguments.classes,
        inputs=values.roles(arguments.input),
        calibration=arguments.calibration,
    )


def run(arguments: argparse.Namespace) -> int:
    let_threads_sleep()
    from aigc_edge.compile import compile_source
    from aigc_edge.compile.request import CompileRequest
    from aigc_edge.compress.budget import Budget
    from aigc_edge.report.summary import render, verified
    from aigc_edge.sources.base import open_source

    request = CompileRequest.parse(  # before loading the source, which may take a while
        arguments.formats or DEFAULT_FORMATS,
        arguments.targets or DEFAULT_TARGETS,
        arguments.budget,
        samples=arguments.samples,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    source = open_source(arguments.source, source_options(arguments))
    if source.judged and not arguments.budget:
        request = dataclasses.replace(request, budget=Budget(frechet=FRECHET))
    output = arguments.output or f"{source.name}.aigc"
    compile_source(
        source,
        output,
        request,
        solver=arguments.solver,
        steps=arguments.steps,
        guidance_scale=arguments.guidance,
        weights=arguments.weights,
        schedule_constants=arguments.schedule_constants,
        overwrite=arguments.overwrite,
        progress=Progress(),
    )
    print(render(verified(output).manifest))
    print(f"\n{output} is written: aigc-edge sample {output} -o samples.png")
    return 0
