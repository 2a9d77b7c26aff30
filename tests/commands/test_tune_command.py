"""`aigc-edge tune` as a user meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aigc_edge.export.bundle import read_manifest

SMALL = ("--samples", "8", "--held-out", "4", "--threads", "1", "--time-limit", "0.5")


def test_it_tunes_and_says_how_well(cli: Any, own_bundle: Path) -> None:
    done = cli.run("tune", own_bundle, "--nfe", "2,1", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["program", "evaluations", "PSNR", "Fréchet", "best", "standard", "solver", "PSNR", "Fréchet"]
    assert [line.split()[:2] for line in lines[1:3]] == [["tuned-2", "2"], ["tuned-1", "1"]]
    assert "unipc-64" in done.stdout
    assert "tuning 2 evaluations" in done.stderr
    assert {"tuned-1", "tuned-2"} <= set(read_manifest(own_bundle, verify=True)["programs"])
    shown = cli.run("sample", own_bundle, "--program", "tuned-2", "-n", "2", "--threads", "1")
    assert shown.returncode == 0, shown.stderr
    table = cli.run("inspect", own_bundle, "--program", "tuned-2")
    assert table.stdout.startswith("tuned-2: 2 evaluations")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nfe", "16"), "from 1 to 15"),
        (("--nfe", "four"), "'four' was given"),
        (("--nfe", "4,,5"), "separated by commas"),
        (("--nfe", "4,5", "--default"), "only one can be the default"),
        (("--guidance", "nan"), "nan was given"),
        (("--samples", "7"), "from 8"),
        (("--engine", "none"), "none"),
        (("--format", "int3"), "no format 'int3'"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], says: str, cli: Any, own_bundle: Path) -> None:
    done = cli.run("tune", own_bundle, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
