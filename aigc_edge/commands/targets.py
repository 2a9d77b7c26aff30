"""`aigc-edge targets`: the devices that a bundle can be compiled for, and which of them this machine is."""

from __future__ import annotations

import argparse

from aigc_edge.commands.parser import Parser

ORDER = 60
HELP = "list the devices that can be compiled for"
DESCRIPTION = """\
List the devices that a bundle can be compiled for: memory and bandwidth as their makers state them, the formats that run as such,
and where their engine is built. Those that this machine is are marked; 'aigc-edge compile --target auto' takes them.

  aigc-edge targets
  aigc-edge targets --json"""


def configure(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses
    import json

    from aigc_edge import targets
    from aigc_edge.compile.request import here
    from aigc_edge.text import table

    own = here()
    every = targets.all_targets().values()
    if arguments.json:
        print(json.dumps([dataclasses.asdict(target) | {"here": target.name in own} for target in every], indent=1))
        return 0
    built = {"tensorrt_rtx": "anywhere (TensorRT-RTX)", "tensorrt": "on the device (TensorRT)", None: "none needed"}
    rows = [
        [
            ("* " if target.name in own else "  ") + target.name,
            target.title,
            f"SM{target.sm}" if target.sm else "-",
            f"{target.memory_gb:g} GB" if target.memory_gb else "-",
            f"{target.bandwidth_gbs:g} GB/s" if target.bandwidth_gbs else "-",
            " ".join(target.precisions) or ", ".join(target.members),
            built[target.flavour] if not target.members else "",
        ]
        for target in every
    ]
    print(table(["  target", "device", "compute", "memory", "bandwidth", "formats", "its engine is built"], rows, indent=0))
    print("\n* this machine")
    return 0
