"""Options and arguments that are wrong by themselves."""

from __future__ import annotations

from typing import Any

import pytest

import aigc_edge


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ("COMMAND", "--help")),
        (["paint"], ("'paint'", "train", "sample", "bench", "--help")),
        (["sample"], ("BUNDLE", "aigc-edge sample --help")),
        (["sample", "x.aigc", "-n", "0"], ("-n", "0", "1 to")),
        (["sample", "x.aigc", "-n", "-3"], ("-n",)),
        (["sample", "x.aigc", "-n", "many"], ("'many'", "whole number")),
        (["sample", "x.aigc", "--steps", "0"], ("--steps", "0", "1 to 10000")),
        (["sample", "x.aigc", "--steps", "-5"], ("--steps",)),
        (["sample", "x.aigc", "--guidance", "nan"], ("--guidance", "nan")),
        (["sample", "x.aigc", "--seed", "-1"], ("--seed",)),
        (["sample", "x.aigc", "--seed", str(2**64)], ("--seed", "18446744073709551615")),
        (["sample", "x.aigc", "--threads", "0"], ("--threads", "0")),
        (["sample", "x.aigc", "--columns", "0"], ("--columns", "0")),
        (["sample", "x.aigc", "--step", "3"], ("--step",)),
        (["sample", "x.aigc", "-o", "x.jpg"], ("x.jpg", ".png", ".npz")),
        (["sample", "x.aigc", "--program", "p", "--steps", "3"], ("--program", "--steps")),
        (["sample", "x.aigc", "--device", "tpu"], ("--device", "tpu", "cuda")),
        (["bench", "x.aigc", "--runs", "0"], ("--runs", "0")),
        (["bench", "x.aigc", "--quality-images", "1"], ("--quality-images 1", "at least 2")),
    ],
)
def test_wrong_words(cli: Any, arguments: list[str], says: tuple[str, ...]) -> None:
    cli.refuse(*arguments, says=says)


@pytest.mark.parametrize("command", ["train", "compile", "sample", "inspect", "bench"])
def test_help_names_every_option_with_its_default(cli: Any, command: str) -> None:
    done = cli.run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: aigc-edge {command}")
    assert max(len(line) for line in done.stdout.splitlines()) <= 132


def test_version(cli: Any) -> None:
    assert cli.run("--version").stdout == f"aigc-edge {aigc_edge.__version__}\n"
