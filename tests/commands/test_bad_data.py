"""Training data and runs that are not what they should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def train(cli: Any, data: str | Path, *more: str, says: tuple[str, ...]) -> None:
    """A training that is refused."""
    cli.refuse("train", "gan", "--data", data, "--out", "run", *more, says=says)


def test_training_data_that_is_not_there(cli: Any) -> None:
    train(cli, "no-such-folder", says=("no-such-folder", "digits"))


def test_empty_image_folder(cli: Any) -> None:
    (cli.folder / "images").mkdir()
    train(cli, "images", says=("images",))


def test_corrupt_image(cli: Any, rng: np.random.Generator) -> None:
    folder = cli.folder / "images"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"{index}.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    train(cli, "images", says=("1.png", "--skip-corrupt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable_image_folder(cli: Any) -> None:
    folder = cli.folder / "images"
    folder.mkdir(mode=0)
    try:
        train(cli, "images", says=("images",))
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("size", ["0", "5000", "big"])
def test_sizes_out_of_range(cli: Any, size: str) -> None:
    train(cli, "digits", "--size", size, says=("--size", size.lstrip("-")))


def test_compiling_what_is_no_run(cli: Any) -> None:
    (cli.folder / "run").mkdir()
    cli.refuse("compile", "run", says=("run", "aigc-edge train"))
    cli.refuse("compile", "none", says=("none",))


@pytest.mark.parametrize(("option", "value"), [("--target", "toaster"), ("--format", "fp99"), ("--format", "int8:speed=9")])
def test_compiling_for_what_there_is_not(cli: Any, option: str, value: str) -> None:
    """Refused before the run is read."""
    (cli.folder / "run").mkdir()
    (cli.folder / "run" / "config.json").write_text("{}")
    cli.refuse("compile", "run", option, value, says=(value.partition(":")[0],))
