"""`aigc-edge plan`: predict the result of a compilation, before anything is built."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from aigc_edge.commands import values
from aigc_edge.commands.compile import DEFAULT_FORMATS, DEFAULT_TARGETS, formats, source_arguments, source_options, targets
from aigc_edge.commands.parser import Parser, option

ORDER = 15
HELP = "predict sizes, memory and speed without building"
DESCRIPTION = """\
Predict, without exporting or building anything: the size of each network in each format, the memory that sampling and compiling
need, a lower bound of the time per image on each target (a roofline of memory traffic and arithmetic), and what a target does
not run. The rates of GPUs are the manufacturer's; those of this machine's CPU are measured, which takes about a second.

  aigc-edge plan ./stable-diffusion --format fp16 --format int8 --format int4 --target jetson-orin-agx --target rtx-40"""


def configure(parser: Parser) -> None:
    option(parser, "source SOURCE", "as for 'aigc-edge compile'")
    what = parser.add_argument_group("what would be compiled")
    formats(what, "fp32 and int8")
    targets(what)
    option(what, "--solver NAME", "solver of the default program")
    option(what, "--steps N", "steps of the default program", type=values.whole(1, 10_000))
    option(what, "--guidance X", "guidance scale of the programs", type=values.real(0, 1000))
    option(what, "--batch N", "batch size (default: 1)", type=values.whole(1, 4096), default=1)
    option(what, "--threads N", "threads assumed for this CPU (default: all physical cores)", type=values.threads)
    source_arguments(parser)
    option(parser, "--json", "print the figures as JSON", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    from aigc_edge.compile.request import CompileRequest
    from aigc_edge.preflight import plan as preflight
    from aigc_edge.sources.base import open_source

    formats, targets = arguments.formats or DEFAULT_FORMATS, arguments.targets or DEFAULT_TARGETS
    request = CompileRequest.parse(formats, targets, threads=arguments.threads, runnable=False)
    prediction = preflight.plan(
        open_source(arguments.source, source_options(arguments)),
        request,
        solver=arguments.solver,
        steps=arguments.steps,
        guidance_scale=arguments.guidance,
        batch=arguments.batch,
    )
    print(json.dumps(prediction, indent=1) if arguments.json else render(prediction))
    return 0


def render(plan: dict[str, Any]) -> str:
    """The plan as text for a terminal of 100 columns."""
    from aigc_edge.text import digits, size, table

    parts = [f"{plan['source']}: {plan['family']}, program {plan['program']}, nothing was built"]
    rows = []
    for name, n in plan["networks"].items():
        count = [f"{n['parameters'] / 1e6:.2f} M", f"{digits(n['macs'] / 1e9)} G", size(n["activations"])]
        rows.append([name, *count, str(plan["evaluations"][name])])
    header = ["network", "parameters", "multiply-adds", "activations", "evaluations per image"]
    parts.append(table(header, rows, right=[1, 2, 3, 4]))
    rows = []
    for name, figures in plan["formats"].items():
        files = [size(figures["bytes"][part]) for part in plan["networks"]]
        rows.append([name, *files, size(sum(figures["bytes"].values())), size(figures["memory"])])
    header = ["format", *plan["networks"], "total", f"memory, batch {plan['batch']}"]
    parts.append("Files\n" + table(header, rows, right=range(1, len(header))))
    copy = f" (with a copy of the weights for torch, {size(plan['weights_copy'])})" if plan["weights_copy"] else ""
    parts.append(f"The bundle's networks: {size(plan['bundle'])}{copy}. Compiling needs up to {size(plan['compile']['memory'])}.")
    for target, each in plan["targets"].items():
        rows, notes = [], []
        for name, figures in each.items():
            if "why_not" in figures:
                rows.append([name, "does not run", figures["why_not"]])
                continue
            bounds = {part: n["bound"] for part, n in figures["networks"].items() if n["bound"]}
            same = len(set(bounds.values())) == 1
            limits = [next(iter(bounds.values()))] if same else [f"{bound} ({part})" for part, bound in bounds.items()]
            time = "–" if figures["seconds"] is None else f"{digits(figures['seconds'] * 1e3)} ms"
            rows.append([name, time, ", ".join(limits)])
            notes += [f"  {name}: {note}" for note in figures["notes"]]
        lines = table(["format", "least time per image", "limited by"], rows, right=[1])
        parts.append("\n".join([f"On {target}", _rates(plan["figures"][target]), lines, *dict.fromkeys(notes)]))
    return "\n\n".join(parts)


def _rates(figures: dict[str, Any]) -> str:
    """The rates that the times of a target are computed from."""
    from aigc_edge.text import digits

    line = "unknown rates: run this command on the target to measure them"
    if figures["bandwidth_gbs"]:
        rates = ", ".join(f"{kind} {digits(rate)}" for kind, rate in (figures["tops"] or {}).items())
        line = ", ".join([*([f"{rates} T(FL)OP/s"] if rates else []), f"{digits(figures['bandwidth_gbs'])} GB/s"])
        line += f" ({figures['of']})" if figures["of"] else ""
    return textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="  ")
