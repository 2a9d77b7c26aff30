"""`aigc-edge plan`: what compiling would give, before anything is built."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from aigc_edge.commands import values
from aigc_edge.commands.compile import DEFAULT_FORMATS, DEFAULT_TARGETS, about, formats, source_options, targets
from aigc_edge.commands.parser import Parser

ORDER = 15
HELP = "predict sizes, memory and speed without building"
DESCRIPTION = """\
Look at a source and predict, without exporting or building anything: the size of each network in each format, the memory that
sampling and compiling take, the least time an image can take on each target (a roofline: what is moved and what is multiplied),
and what does not run there. Of GPUs the rates are the maker's, of this machine's CPU they are measured, which takes a second.

  aigc-edge plan ./stable-diffusion --format fp16 --format int8 --format int4 --target jetson-orin-agx --target rtx-40"""


def configure(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="what 'aigc-edge compile' takes")
    what = parser.add_argument_group("what would be made")
    formats(what, "fp32 and int8")
    targets(what)
    what.add_argument("--solver", metavar="NAME", help="solver of the default program")
    what.add_argument("--steps", type=values.whole(1, 10_000), metavar="N", help="steps of the default program")
    what.add_argument("--guidance", type=values.real(0, 1000), metavar="X", help="guidance scale of the programs")
    what.add_argument("--batch", type=values.whole(1, 4096), default=1, metavar="N", help="samples at once (default: 1)")
    what.add_argument(
        "--threads", type=values.threads, metavar="N", help="threads that times of this CPU are for (default: all physical cores)"
    )
    about(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


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
    header = ["network", "parameters", "multiply-adds", "activations", "evaluations an image"]
    parts.append(table(header, rows, right=[1, 2, 3, 4]))
    rows = []
    for name, found in plan["formats"].items():
        files = [size(found["bytes"][part]) for part in plan["networks"]]
        rows.append([name, *files, size(sum(found["bytes"].values())), size(found["memory"])])
    header = ["format", *plan["networks"], "together", f"memory, batch {plan['batch']}"]
    parts.append("Files\n" + table(header, rows, right=range(1, len(header))))
    copy = f" (with a copy of the weights for torch, {size(plan['weights_copy'])})" if plan["weights_copy"] else ""
    parts.append(f"The bundle's networks: {size(plan['bundle'])}{copy}. Compiling takes up to {size(plan['compile']['memory'])}.")
    for target, each in plan["targets"].items():
        rows, notes = [], []
        for name, found in each.items():
            if "why_not" in found:
                rows.append([name, "does not run", found["why_not"]])
                continue
            bounds = {part: n["bound"] for part, n in found["networks"].items() if n["bound"]}
            alike = len(set(bounds.values())) == 1
            slow = [next(iter(bounds.values()))] if alike else [f"{bound} ({part})" for part, bound in bounds.items()]
            time = "–" if found["seconds"] is None else f"{digits(found['seconds'] * 1e3)} ms"
            rows.append([name, time, ", ".join(slow)])
            notes += [f"  {name}: {note}" for note in found["notes"]]
        lines = table(["format", "least time an image", "spent on"], rows, right=[1])
        parts.append("\n".join([f"On {target}", _rates(plan["figures"][target]), lines, *dict.fromkeys(notes)]))
    return "\n\n".join(parts)


def _rates(figures: dict[str, Any]) -> str:
    """What the times of a target are made of."""
    from aigc_edge.text import digits

    said = "its rates are not known: a plan that is made there measures them"
    if figures["bandwidth_gbs"]:
        rates = ", ".join(f"{kind} {digits(rate)}" for kind, rate in (figures["tops"] or {}).items())
        said = ", ".join([*([f"{rates} T(FL)OP/s"] if rates else []), f"{digits(figures['bandwidth_gbs'])} GB/s"])
        said += f" ({figures['of']})" if figures["of"] else ""
    return textwrap.fill(said, 100, initial_indent="  ", subsequent_indent="  ")
