"""Exact resume: a training that was stopped and taken up again ends in the same bits as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aigc_edge.errors import AigcEdgeError
from aigc_edge.train import checkpoint, train
from aigc_edge.train.trainer import Trainer

SETTINGS: dict[str, dict[str, Any]] = {
    "diffusion": {"widths": (8, 16), "blocks": (1, 1), "embedding": 16, "batch": 48, "warmup": 2, "shift": 0.05},
    "gan": {"width": 4, "latent": 8, "batch": 48, "warmup": 2, "r1_every": 2, "shift": 0.05},
}
STEPS = 9


def files(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the run: checkpoint and model."""
    return {
        f"{name}/{key}": v for name in ("checkpoint", "model") for key, v in load_file(folder / f"{name}.safetensors").items()
    }


def same(one: Path, two: Path) -> bool:
    first, second = files(one), files(two)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def go(family: str, out: Path, **settings: Any) -> Path:
    return train(family, "digits", out, size=8, progress=False, **({"steps": STEPS, "seed": 5} | SETTINGS[family] | settings))


class Stop(Exception):
    pass


def stopped_after(step: int, monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    """Make training stop behind that step: by Ctrl-C, or (with `error`) by a crash."""
    advance = Trainer.advance

    def limited(self: Trainer) -> dict[str, float]:
        values = advance(self)
        if self.step == step:
            if error is not None:
                raise error
            signal.raise_signal(signal.SIGINT)
        return values

    monkeypatch.setattr(Trainer, "advance", limited)


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("step", [1, 5])
def test_interrupted_by_ctrl_c(family: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = go(family, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stopped_after(step, patch, None)
        with pytest.raises(KeyboardInterrupt):
            go(family, tmp_path / "parts")
    assert json.loads((tmp_path / "parts" / "checkpoint.json").read_text())["step"] == step
    assert not same(whole, tmp_path / "parts")
    assert not list((tmp_path / "parts").glob(".*.part"))
    go(family, tmp_path / "parts")
    assert same(whole, tmp_path / "parts")


def test_resumed_from_the_last_checkpoint_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = go("diffusion", tmp_path / "whole", check_every=3)
    with monkeypatch.context() as patch:
        stopped_after(8, patch, Stop())
        with pytest.raises(Stop):
            go("diffusion", tmp_path / "parts", check_every=3)
    assert json.loads((tmp_path / "parts" / "checkpoint.json").read_text())["step"] == 6
    go("diffusion", tmp_path / "parts", check_every=3)
    assert same(whole, tmp_path / "parts")


CHILD = """
import json, sys
from aigc_edge.train import train

def go(name):
    train("diffusion", "digits", sys.argv[1] + name, size=8, progress=False, **json.loads(sys.argv[2]))

try:
    go("/parts")
except KeyboardInterrupt:
    print(json.load(open(sys.argv[1] + "/parts/checkpoint.json"))["step"])
    go("/parts")
    go("/whole")
"""


def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    """A real process gets a real signal at a random time, goes on, and ends in the same bits as without."""
    settings = SETTINGS["diffusion"] | {"steps": 150, "batch": 16}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(settings)], stdout=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "parts").glob("events*")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(float(np.random.default_rng().uniform(0, 0.5)))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert 0 <= int(out) < 150  # it was really stopped on the way
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert go("diffusion", out) == out
    assert go("diffusion", out, steps=STEPS - 3) == out  # fewer were asked for than there are
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_more_steps_go_on_from_there(tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run", steps=3)
    go("diffusion", out, steps=5)
    assert json.loads((out / "checkpoint.json").read_text())["step"] == 5
    assert json.loads((out / "config.json").read_text())["train"]["steps"] == 5


def test_without_resume_it_starts_afresh(tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run", seed=1)
    (out / "judge").mkdir()
    (out / "notes.txt").write_text("mine")
    go("diffusion", out, resume=False)
    assert same(out, go("diffusion", tmp_path / "other"))
    assert not (out / "judge").exists()
    assert (out / "notes.txt").read_text() == "mine"  # not ours to delete
    assert len(list(out.glob("events*"))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, r"train\.seed = 5, but 6 was requested: give another folder, or start from scratch"),
        ({"widths": (8, 24)}, r"model\.widths = \[8, 16\]"),
        ({"batch": 32}, r"train\.batch = 48"),
    ],
)
def test_another_training_in_the_same_folder_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run", steps=2)
    before = files(out)
    with pytest.raises(AigcEdgeError, match=message):
        go("diffusion", out, **changes)
    assert all(torch.equal(value, files(out)[key]) for key, value in before.items())


def test_another_family_or_other_data_are_refused(tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run", steps=2)
    with pytest.raises(AigcEdgeError, match="family = 'diffusion', but 'gan' was requested"):
        go("gan", out, steps=2)
    with pytest.raises(AigcEdgeError, match=r"model\.size = 8, but 16 was requested"):
        train("diffusion", "digits", out, size=16, progress=False, **({"steps": 2, "seed": 5} | SETTINGS["diffusion"]))


def test_foreign_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    for resume in (True, False):
        with pytest.raises(AigcEdgeError, match="contains other files and no training run"):
            go("diffusion", tmp_path, resume=resume)
    with pytest.raises(AigcEdgeError, match="is a file: give a folder"):
        go("diffusion", tmp_path / "holiday.jpg")
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("keep", [0, 50, 0.5])
def test_a_damaged_checkpoint(keep: float, tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run", steps=2)
    path = out / checkpoint.TENSORS
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(AigcEdgeError, match=r"cannot be resumed .*: delete it, or start from scratch"):
        go("diffusion", out, steps=3)


def test_no_pickle_anywhere(tmp_path: Path) -> None:
    out = go("diffusion", tmp_path / "run", steps=2)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = {"config.json", "checkpoint.json", "checkpoint.safetensors", "model.safetensors", "samples/step_000002.png"}
    assert {name for name in found if not name.startswith("events.out.tfevents.")} == expected
