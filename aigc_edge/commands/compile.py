"""`aigc-edge compile`: compile a trained generator into a bundle, with every format evaluated against the original."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option
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
PREDICTIONS = "epsilon, v, x0, flow, edm, consistency or denoised"
FRECHET = 1.1  # the default budget where real images are known, as a multiple of the distance of fp32


def configure(parser: Parser) -> None:
    option(
        parser,
        "source SOURCE",
        "a folder that 'aigc-edge train' wrote, a diffusers folder, an ONNX file, or package:function that returns a module",
    )
    option(parser, "-o --output BUNDLE", "the bundle to write (default: the source's name with .aigc)")
    option(parser, "--overwrite", "replace the bundle if it exists", action="store_true")
    what = parser.add_argument_group("what to compile")
    formats(what, "fp32 and int8")
    targets(what)
    option(what, "--solver NAME", "solver of the default program (default: the source's own, or dpmpp_2m)")
    option(what, "--steps N", "steps of the default program (default: the source's own, or 10)", type=values.whole(1, 10_000))
    option(
        what,
        "--guidance X",
        "guidance scale of the programs, 1 is off (default: the source's own; 2 for runs with classes)",
        type=values.real(0, 1000),
    )
    option(
        what,
        "--no-weights",
        "omit the copy of the weights that --engine torch needs, for a smaller bundle",
        dest="weights",
        action="store_false",
    )
    option(
        what,
        "--no-schedule-constants",
        "keep the layers that depend on the timestep alone in the network, instead of precomputing their outputs",
        dest="schedule_constants",
        action="store_false",
    )
    source_arguments(parser)
    quality_options(parser, FRECHET)


def source_arguments(parser: Parser) -> None:
    """Add the options that describe a source which does not describe itself."""
    group = parser.add_argument_group("source description, where the source itself has none")
    option(group, "--role", "role of an ONNX file or module: evaluated at each step, or once", choices=("denoiser", "decoder"))
    option(group, "--prediction NAME", f"what a denoiser predicts: {PREDICTIONS}")
    option(
        group,
        "--schedule KEY=VALUE",
        "a denoiser's training schedule (betas=scaled_linear, train_steps=1000, sigma_max=80, sigmas=80,24,0 …); may be repeated",
        action="append",
        default=[],
    )
    option(group, "--classes N", "number of classes of an ONNX file or module", type=values.whole(1, 1_000_000))
    option(
        group,
        "--input NAME=VALUE",
        "an input of an ONNX file whose name and type do not reveal what it takes: a role (sample, timestep or class), a number "
        "that it always has, or a .npy file with examples [k, ...] of a condition; may be repeated",
        action="append",
        default=[],
    )
    option(group, "--result NAME", "the output of an ONNX file or a module that is its result")
    option(
        group,
        "--layout",
        "where images of an ONNX file or a module have their channels (default: as their shapes show, else nchw)",
        choices=("nchw", "nhwc"),
    )
    option(
        group,
        "--range LOW:HIGH",
        "the range of the values that an ONNX file or a module returns, such as 0:255, or --range=-0.5:0.5 where LOW is negative "
        "(default: -1:1); samples are clamped to it",
        type=values.value_range,
    )
    option(
        group,
        "--size HxW",
        "height and width of the images, for networks of variable size; may be repeated: the bundle then serves every size "
        "with the same weights, the first by default",
        dest="sizes",
        type=values.size,
        action="append",
    )
    fed = group.add_mutually_exclusive_group()
    option(
        fed,
        "--calibration FILE.npz",
        "what a network of one evaluation takes: arrays named as its inputs, samples along the first axis; formats are "
        "calibrated and compared on them (a denoiser is on the states of its own program)",
        type=values.arrays_file,
    )
    option(
        fed,
        "--inputs DISTRIBUTION",
        "the same as a distribution: normal, uniform (from -1 to 1), uniform:LOW:HIGH or sphere (default: the values of the "
        "example sample, normal where there are none)",
        dest="calibration",
        type=values.distribution,
    )
    option(group, "--data NAME", "real images for the quality scores: a data set or a folder")
    option(group, "--prompts FILE", "prompts for calibration and evaluation, one per line")


def formats(group: argparse._ArgumentGroup, default: str) -> None:
    """Add --format."""
    option(
        group,
        "--format NAME",
        "fp32, fp16, int8, int4 and others (an unknown one lists them all), with options after a colon (int8:psnr=35); may "
        f"be repeated, the first is the bundle's default (default: {default})",
        dest="formats",
        action="append",
    )


def targets(group: argparse._ArgumentGroup) -> None:
    """Add --target."""
    option(
        group,
        "--target NAME",
        "a device or a group of them ('aigc-edge targets' lists them), or auto: this machine; may be repeated (default: x86-cpu)",
        dest="targets",
        action="append",
    )


def quality_options(parser: Parser, frechet: float | None) -> None:
    """Add the options of the evaluation; `frechet` is the default budget where real images are known."""
    group = parser.add_argument_group("quality")
    option(group, "--samples N", "images per format for the evaluation", type=values.whole(2, 1_000_000))
    option(
        group,
        "--budget NAME=X",
        "quality that every format must reach against fp32 from the same noise: psnr=30 (dB, at least; the peak is the range of "
        "fp32's own samples), centred_l2=0.3 (error relative to what varies in them, at most), ssim=0.9 (of images, at least), "
        "frechet=1.05x (times that of fp32, at most); may be repeated (default: each format's own option psnr, which is 30 for "
        "int8, with the errors that it stands for"
        + ("" if frechet is None else f", and frechet={frechet:g}x where real images are known")
        + "). Formats that miss it are left out: the others are written, and the exit code is 2",
        action="append",
    )
    option(group, "--seed S", "seed of calibration and evaluation (default: 0)", type=values.whole(0, 2**62), default=0)
    option(group, "--threads N", "CPU threads (default: all physical cores)", type=values.threads)


def source_options(arguments: argparse.Namespace) -> SourceOptions:
    """The values of the options that `source_arguments` adds."""
    from aigc_edge.sources.base import SourceOptions

    sizes = list(dict.fromkeys(arguments.sizes or [None]))
    return SourceOptions(
        role=arguments.role,
        prediction=arguments.prediction,
        schedule=values.with_lists(values.pairs(arguments.schedule, "--schedule")),
        size=sizes[0],
        further_sizes=tuple(sizes[1:]),
        data=arguments.data,
        prompts=values.lines(arguments.prompts),
        classes=arguments.classes,
        inputs=values.inputs(arguments.input),
        calibration=arguments.calibration,
        result=arguments.result,
        layout=arguments.layout,
        output_range=arguments.range,
    )


def run(arguments: argparse.Namespace) -> int:
    let_threads_sleep()
    from aigc_edge.sources.base import check_source, open_source

    options = source_options(arguments)
    check_source(arguments.source, options)
    from aigc_edge.bundle.bundle import Bundle  # not before: these take a second
    from aigc_edge.compile import compile_source
    from aigc_edge.compile.request import CompileRequest
    from aigc_edge.compress.budget import Budget
    from aigc_edge.report.summary import render

    request = CompileRequest.parse(  # before loading the source, which may take a while
        arguments.formats or DEFAULT_FORMATS,
        arguments.targets or DEFAULT_TARGETS,
        arguments.budget,
        samples=arguments.samples,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    source = open_source(arguments.source, options)
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
    print(render(Bundle.open(output, verify=True).manifest))
    print(f"\n{output} is written: aigc-edge sample {output} -o samples.png")
    return 0
