"""Bundles that are missing, cut off, changed or too new, and what a good one has not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMMANDS = ["sample", "inspect", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_bundle(cli: Any, command: str) -> None:
    cli.refuse(command, "no-such.aigc", says=("no-such.aigc", "aigc-edge compile"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_and_a_file_that_are_no_bundle(cli: Any, command: str) -> None:
    (cli.folder / "empty.aigc").mkdir()
    (cli.folder / "text.aigc").write_text("hello")
    cli.refuse(command, "empty.aigc", says=("empty.aigc", "manifest.json"))
    cli.refuse(command, "text.aigc", says=("text.aigc",))


def resign(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and its digest, as somebody who knows how would."""

    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    text = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest() + "\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_newer_version(cli: Any, command: str, own_bundle: Path) -> None:
    resign(own_bundle, lambda manifest: manifest.update(version=99))
    cli.refuse(command, own_bundle.name, says=("version", "99", "up to 1"))


@pytest.mark.parametrize("command", COMMANDS)
def test_manifest_that_does_not_match_its_digest(cli: Any, command: str, own_bundle: Path) -> None:
    text = (own_bundle / "manifest.json").read_text(encoding="utf-8")
    (own_bundle / "manifest.json").write_text(text.replace('"default_format"', '"default_Format"'), encoding="utf-8")
    cli.refuse(command, own_bundle.name, says=("manifest.json",))


def network(bundle: Path) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    component = next(iter(manifest["components"].values()))
    return bundle / component["formats"][manifest["default_format"]]["file"]


@pytest.mark.parametrize("command", COMMANDS)
def test_truncated_network(cli: Any, command: str, own_bundle: Path) -> None:
    file = network(own_bundle)
    file.write_bytes(file.read_bytes()[:-100])
    cli.refuse(command, own_bundle.name, says=(file.name, str(file.stat().st_size)))


@pytest.mark.parametrize("command", ["sample", "inspect"])
def test_tampered_network(cli: Any, command: str, own_bundle: Path, rng: np.random.Generator) -> None:
    file = network(own_bundle)
    data = bytearray(file.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    cli.refuse(command, own_bundle.name, says=(file.name,))


@pytest.mark.parametrize("command", COMMANDS)
def test_network_that_is_gone(cli: Any, command: str, own_bundle: Path) -> None:
    file = network(own_bundle)
    file.unlink()
    cli.refuse(command, own_bundle.name, says=(file.name,))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--solver", "magic"], ("'magic'", "dpmpp_2m", "euler")),
        (["--class", "10"], ("'10'", "0 to 9")),
        (["--class=-2"], ("'-2'", "0 to 9")),
        (["--class", "seven"], ("'seven'", "0 to 9")),
        (["--class", "1,,2"], ("1,,2",)),
        (["--format", "fp99"], ("fp99", "fp32")),
        (["--engine", "abacus"], ("'abacus'", "onnxruntime")),
        (["--program", "none-such"], ("none-such",)),
        (["-o", "no-such-folder-is-made/x.txt"], (".png",)),
    ],
)
def test_what_a_bundle_has_not(cli: Any, options: list[str], says: tuple[str, ...], own_bundle: Path) -> None:
    cli.refuse("sample", own_bundle.name, *options, says=says)


def test_inspect_of_a_program_that_is_not_there(cli: Any, own_bundle: Path) -> None:
    cli.refuse("inspect", own_bundle.name, "--program", "magic-3", says=("'magic-3'", "dpmpp_2m"))


def test_engine_that_is_not_installed(cli: Any, own_bundle: Path) -> None:
    before = cli.without("onnxruntime")
    cli.refuse("sample", own_bundle.name, before=before, says=("onnxruntime", "pip install"))


def test_torch_engine_without_torch(cli: Any, own_bundle: Path) -> None:
    before = cli.without("torch")
    cli.refuse("sample", own_bundle.name, "--engine", "torch", before=before, says=("torch", "aigc-edge[train]"))


def test_training_without_torch(cli: Any) -> None:
    before = cli.without("torch")
    command = ("train", "diffusion", "--data", "digits", "--out", "run")
    cli.refuse(*command, before=before, says=("torch", "aigc-edge[train]"))


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_plan_without_a_gpu_says_exactly_that(cli: Any, own_bundle: Path) -> None:
    sentence = cli.refuse("sample", own_bundle.name, "--engine", "tensorrt", says=("TensorRT", "onnxruntime"))
    assert "needs an NVIDIA GPU" in sentence or "not installed" in sentence
