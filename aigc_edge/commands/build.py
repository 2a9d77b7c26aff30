"""`aigc-edge build`: build the TensorRT plans of a bundle, on the device itself or for other cards."""

from __future__ import annotations

import argparse

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option
from aigc_edge.commands.progress import Progress

ORDER = 27
HELP = "build the TensorRT plans of a bundle on this device"
DESCRIPTION = """\
Build the TensorRT plans of a bundle's networks for the GPU of this machine (with NVIDIA's tensorrt, as on a Jetson, or
tensorrt_rtx, whichever is installed) and add them to the bundle. For GeForce RTX and other cards that TensorRT-RTX supports,
plans can be built on any machine. Plans that are up to date are not rebuilt, and an interrupted build resumes from the cache.

  aigc-edge build sd15.aigc                                     for the GPU of this machine
  aigc-edge build sd15.aigc --target rtx-40 --format int8       for another GPU, on any machine
  aigc-edge build sd15.aigc --option workspace_gb=2 --batches 1,2,8

Options (KEY=VALUE): version_compatible=true, hardware_compatibility=ampere+ or same_sm, refit=true, strip=true,
weight_streaming=true, workspace_gb=X, timing_cache=false. Which of them are available depends on the module and the device."""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle, folder or file")
    option(parser, "-o --output BUNDLE", "write a copy with the plans, and leave the bundle unchanged")
    option(parser, "--overwrite", "replace the output if it exists", action="store_true")
    what = parser.add_argument_group("what to build")
    option(
        what,
        "--target NAME",
        "auto (the GPU of this machine) or a target that TensorRT-RTX supports; may be repeated (default: auto)",
        dest="targets",
        action="append",
    )
    option(
        what,
        "--format NAME",
        "a format of the bundle; may be repeated (default: all that the target runs and TensorRT builds)",
        dest="formats",
        action="append",
    )
    option(what, "--batches MIN,OPT,MAX", "batch sizes of the plans (default: 1,2,32)", type=_batches)
    option(what, "--option KEY=VALUE", "see above; may be repeated", dest="options", action="append", default=[])
    option(what, "--force", "rebuild plans that are up to date", action="store_true")
    limits = parser.add_argument_group("limits")
    option(limits, "--minutes X", "time limit per plan (default: 60)", type=values.real(0.01), default=60)
    option(limits, "--memory-gb X", "memory limit of the builder (default: 3/4 of the total)", type=values.real(0.01))
    option(
        limits, "--cache-gb X", "size limit of the plan cache (default: $AIGC_EDGE_PLAN_CACHE_GB, else 20)", type=values.real(0)
    )


def _batches(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} was given, three batch sizes such as 1,2,32 are allowed")
    low, opt, high = map(int, parts)
    if not 1 <= low <= opt <= high:
        raise argparse.ArgumentTypeError(f"{text!r} was given, 1 <= min <= opt <= max is allowed")
    return low, opt, high


def run(arguments: argparse.Namespace) -> int:
    from aigc_edge.bundle.bundle import Bundle
    from aigc_edge.compile.build import build_bundle
    from aigc_edge.engines.plans.options import BuildOptions
    from aigc_edge.engines.plans.plan import BATCHES
    from aigc_edge.report.summary import render_engines

    result = build_bundle(
        arguments.bundle,
        targets=arguments.targets or ["auto"],
        formats=arguments.formats,
        out=arguments.output,
        options=BuildOptions.parse(values.pairs(arguments.options, "--option")),
        batches=arguments.batches or BATCHES,
        force=arguments.force,
        overwrite=arguments.overwrite,
        memory_gb=arguments.memory_gb,
        cache_gb=arguments.cache_gb,
        seconds=arguments.minutes * 60,
        progress=Progress(),
    )
    written = arguments.output or arguments.bundle
    print(render_engines(Bundle.open(written, verify=True).manifest))
    for what, names in (("built", result.built), ("up to date", result.up_to_date)):
        if names:
            print(f"{what}: {', '.join(names)}")
    for name in result.skipped:
        print(f"skipped: {name}")
    return 0
