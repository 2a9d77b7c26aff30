"""`aigc-edge inspect`: verify every file of a bundle and describe its contents."""

from __future__ import annotations

import argparse

from aigc_edge.commands.parser import Parser, option

ORDER = 40
HELP = "verify a bundle and describe its contents"
DESCRIPTION = """\
Verify every file of a bundle (version, bounds, SHA-256) and describe its contents: networks and formats, engines and the
precision their build logs show, programs, quality, and the origin and licence of the data.

  aigc-edge inspect digits.aigc
  aigc-edge inspect digits.aigc --program dpmpp_2m-10      the rows of a sampling program
  aigc-edge inspect digits.aigc --json                     the manifest, for scripts"""


def configure(parser: Parser) -> None:
    option(parser, "bundle BUNDLE", "a bundle (folder or packed file)")
    option(parser, "--program NAME", "print the table of one sampling program ('default' for the default one)")
    option(parser, "--json", "print JSON instead of text", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    import json
    import sys

    from aigc_edge.bundle.bundle import Bundle
    from aigc_edge.diffusion import format_table
    from aigc_edge.report.summary import describe, program_of, render

    if arguments.program:
        program = program_of(Bundle.open(arguments.bundle, verify=True).manifest, arguments.program)
        print(json.dumps(program.to_json(), indent=1) if arguments.json else format_table(program))
    elif arguments.json:
        print(json.dumps(describe(arguments.bundle), indent=1, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))
    else:
        print(render(Bundle.open(arguments.bundle, verify=True).manifest))
    return 0
