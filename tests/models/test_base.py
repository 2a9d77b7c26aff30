"""Reading a run back, and what is wrong with one that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.base import FAMILIES, load_run

MODEL = {"size": 8, "channels": 1, "num_classes": 2, "widths": [8], "blocks": [1], "patch": 1, "embedding": 8}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    family = FAMILIES["diffusion"].from_config(MODEL)
    save_file(family.state_dict(), tmp_path / "model.safetensors")
    config = {"version": 1, "family": "diffusion", "model": family.model_config(), "data": {}, "train": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_run_comes_back_ready_to_use(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert run.path == run_folder
    assert run.config["family"] == run.family.name == "diffusion"
    assert not run.family.training
    assert not any(p.requires_grad for p in run.family.parameters())
    again = load_run(str(run_folder)).family.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in run.family.state_dict().items())


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match=r"not a training run.*aigc-edge train"):
        load_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2, this aigc-edge reads 1: update"),
        ({"family": "vae"}, "unknown family 'vae': choose one of .*diffusion"),
        ({"model": MODEL | {"widths": [16]}}, "damaged or belongs to another model"),
        ({"model": MODEL | {"widths": "wide"}}, "give a list"),
        ({"model": MODEL | {"depth": 3}}, "unknown diffusion model settings depth"),
        ({"model": {}}, "lack size, channels, num_classes"),
    ],
)
def test_a_config_that_does_not_fit(run_folder: Path, changes: dict[str, object], message: str) -> None:
    edit(run_folder, **changes)
    with pytest.raises(AigcEdgeError, match=message):
        load_run(run_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"version": 1}'])
def test_a_damaged_config(run_folder: Path, text: str) -> None:
    (run_folder / "config.json").write_text(text)
    with pytest.raises(AigcEdgeError, match=r"config\.json is damaged"):
        load_run(run_folder)


def test_missing_and_damaged_weights(run_folder: Path) -> None:
    weights = run_folder / "model.safetensors"
    data = weights.read_bytes()
    for broken in (b"", data[:100], data[: len(data) // 2]):
        weights.write_bytes(broken)
        with pytest.raises(AigcEdgeError, match="damaged"):
            load_run(run_folder)
    weights.unlink()
    with pytest.raises(AigcEdgeError, match=r"no model\.safetensors yet"):
        load_run(run_folder)
