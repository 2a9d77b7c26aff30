"""Bundles of every kind that earlier code wrote (see data/README.md) open, and give the pixels that they gave then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.diffusion import Program
from aigc_edge.report.summary import describe, render

DATA = Path(__file__).resolve().parent / "data"
PIXELS = dict(np.load(DATA / "pixels.npz"))
PROMPTS = ["a red fox", "the sea"]


@pytest.mark.parametrize("key", PIXELS)
def test_they_give_the_same_pixels(key: str) -> None:
    if key.startswith("text"):
        pytest.importorskip("tokenizers")
    name, _, option = key.partition("-")
    options: dict[str, Any] = {"size": tuple(map(int, option.split("x")))} if "x" in option else {"format": option or None}
    conditions = {"prompt": PROMPTS} if name == "text" else {} if name == "gan" else {"classes": [0, 2]}
    with aigc_edge.open(DATA / f"{name}.aigc", threads=1, verify="all", **options) as pipeline:
        images = pipeline.sample(2, seed=7, **conditions)
    # Another processor or another onnxruntime may round a float32 sum otherwise: then a pixel is on the other side of its level.
    difference = np.abs(images.astype(int) - PIXELS[key])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("path", sorted(DATA.glob("*.aigc")), ids=lambda path: path.stem)
def test_they_are_read_shown_and_amended(path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(path, verify=True)
    stored = json.loads(json.dumps(bundle.manifest.to_json()))
    shown = describe(path)
    for key, value in stored.items():  # what they have is what is written again; what they lack has its default
        if key in shown and key not in ("components", "programs", "text"):
            assert shown[key] == value
    assert bundle.manifest.name in render(Bundle.open(path, verify=True).manifest)
    copy = tmp_path / path.name
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    default = bundle.manifest.programs[bundle.manifest.default_program]
    again = Program("again", default.slots, default.init_scale, default.rows, default.guidance_scale, default.meta)
    Bundle.open(copy, verify=True).add_programs({"again": again}, default="again")
    amended = Bundle.open(copy, verify=True)
    assert amended.packed == bundle.packed
    assert amended.manifest.files == bundle.manifest.files
    assert amended.manifest.components == bundle.manifest.components
    assert set(amended.manifest.programs) == {*bundle.manifest.programs, "again"}
