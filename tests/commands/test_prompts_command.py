"""`aigc-edge sample` with prompts, as a user meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge


@pytest.fixture
def bundle(text_to_image: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_to_image().write(tmp_path_factory.mktemp("bundles") / "toy.aigc")


def test_prompts_are_shared_out_and_written(cli: Any, bundle: Path) -> None:
    options = ["--prompt", "a cat", "--prompt", "the red moon", "--negative-prompt", "on", "--seed", "7", "--npz", "out.npz"]
    done = cli.run("sample", bundle, "-n", "3", *options, "--png", "out.png")
    assert done.returncode == 0, done.stderr
    found = np.load(cli.folder / "out.npz")
    assert found["prompts"].tolist() == ["a cat", "a cat", "the red moon"]
    with aigc_edge.open(bundle) as opened:
        wanted = opened.sample(3, seed=7, prompt=found["prompts"].tolist(), negative_prompt="on")
    np.testing.assert_array_equal(found["images"], wanted)
    assert (cli.folder / "out.png").stat().st_size > 0


def test_one_image_a_prompt_unless_more_are_asked_for(cli: Any, bundle: Path) -> None:
    assert cli.run("sample", bundle, "--prompt", "a cat", "--prompt", "red", "--npz", "out.npz").returncode == 0
    assert np.load(cli.folder / "out.npz")["images"].shape == (2, 16, 16, 3)


def test_what_is_missing_or_too_much_is_one_sentence(cli: Any, bundle: Path, tiny_bundle: Path) -> None:
    cli.refuse("sample", bundle, says=("generates by conditions: give a prompt, or give conditions=",))
    cli.refuse("sample", bundle, "--negative-prompt", "a cat", says=("give a prompt",))
    cli.refuse("sample", tiny_bundle, "--prompt", "a cat", says=("takes no conditions: leave prompt out",))
    cli.refuse("sample", bundle, "--prompt", "a cat", "--class", "1", says=("has no classes",))
    before = cli.without("tokenizers")
    cli.refuse("sample", bundle, "--prompt", "a", says=("needs the package tokenizers", "aigc-edge[text]"), before=before)


def test_a_scale_that_the_network_is_told_takes_no_negative_prompt(cli: Any, text_to_image: Any, tmp_path: Path) -> None:
    told = text_to_image(guidance=True).write(tmp_path / "told.aigc")
    given = ("--prompt", "a cat", "--guidance", "3.5")
    cli.refuse(
        "sample", told, *given, "--negative-prompt", "red", says=("guidance scale as a number", "leave negative_prompt out")
    )
    assert cli.run("sample", told, *given, "-o", "out.png").returncode == 0
