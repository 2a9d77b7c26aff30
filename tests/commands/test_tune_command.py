"""`aigc-edge tune` as a user meets it."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from aigc_edge.bundle.bundle import Bundle

SMALL = ("--samples", "8", "--held-out", "4", "--threads", "1", "--time-limit", "0.5")


def test_it_tunes_and_says_how_well(cli: Any, own_bundle: Path) -> None:
    done = cli.run("tune", own_bundle, "--nfe", "2,1", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["program", "evaluations", "PSNR", "Fréchet", "best", "standard", "solver", "PSNR", "Fréchet"]
    assert [line.split()[:2] for line in lines[1:3]] == [["tuned-2", "2"], ["tuned-1", "1"]]
    assert "unipc-64" in done.stdout
    assert "tuning 2 evaluations" in done.stderr
    assert {"tuned-1", "tuned-2"} <= set(Bundle.open(own_bundle, verify=True).manifest.to_json()["programs"])
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


def test_ctrl_c_keeps_what_was_found(cli: Any, own_bundle: Path) -> None:
    before, state = Bundle.open(own_bundle).manifest.to_json(), own_bundle.with_name("digits.aigc.tuning.json")
    arguments = ("--nfe", "2", "--samples", "8", "--held-out", "4", "--threads", "1")
    running = subprocess.Popen(cli.command("tune", own_bundle, *arguments), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not state.exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "tuning.json holds the best tables so far" in said
    assert "Traceback" not in said
    assert Bundle.open(own_bundle, verify=True).manifest.to_json() == before
    done = cli.run("tune", own_bundle, *arguments, "--time-limit", "0.01")
    assert done.returncode == 0, done.stderr
    assert not state.exists()
