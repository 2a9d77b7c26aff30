"""What another distribution adds is used by the command line like what is built in, and nothing in aigc-edge names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MODULE = """
import torch
from torch import nn


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 24), (24, 24), (24, 1)))

    def forward(self, sample, timestep):
        hidden = torch.relu(self.first(sample) + 1e-3 * timestep[:, None, None, None])
        return self.last(torch.relu(self.middle(hidden)))


def build():
    return Denoiser(), torch.randn(1, 1, 8, 8)
"""
DENOISER = ("--role", "denoiser", "--prediction", "epsilon", "--schedule", "betas=linear", "--samples", "2")
Run = Callable[..., Any]


def test_targets_have_formats_that_nobody_listed(toy: Path, run: Run) -> None:
    listed = {entry["name"]: entry for entry in json.loads(run(toy, "targets", "--json").stdout)}
    assert listed["toy-npu"]["formats"] == ["fp32", "int8w", "pruned", "toy8"]
    assert "toy8" in listed["x86-cpu"]["formats"]
    assert "toy8" in listed["rtx-20"]["formats"]


def test_a_generator_is_compiled_in_the_format_and_sampled_by_engine_and_solver(toy: Path, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "tiny.py").write_text(MODULE)
    formats, targets = ("--format", "fp32", "--format", "toy8"), ("--target", "toy-npu", "--target", "x86-cpu")
    done = run(toy, "compile", "tiny:build", "-o", "tiny.aigc", *DENOISER, *formats, *targets)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "tiny.aigc" / "manifest.json").read_text())
    assert manifest["targets"] == ["toy-npu", "x86-cpu"]
    assert manifest["quality"]["toy8"]["psnr"] > 20
    assert set(manifest["components"]["denoiser"]["formats"]) == {"fp32", "toy8"}
    images = []
    for engine in ("toy", "onnxruntime"):
        options = ("--engine", engine, "--format", "toy8", "--solver", "toy_midpoint", "--steps", "3", "-n", "2")
        done = run(toy, "sample", "tiny.aigc", *options, "-o", f"{engine}.npz")
        assert done.returncode == 0, done.stderr
        images.append(np.load(tmp_path / f"{engine}.npz")["images"].astype(int))
    assert np.ptp(images[0]) > 50
    assert np.abs(images[0] - images[1]).max() <= 1


def test_a_target_refuses_what_its_engine_does_not_run(toy: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(MODULE)
    done = run(toy, "compile", "tiny:build", "-o", "tiny.aigc", *DENOISER, "--format", "fp16", "--target", "toy-npu")
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "the target toy-npu does not run fp16, it runs fp32, int8w, pruned, toy8: leave out one or the other"
    )


def test_a_folder_of_the_pipeline_class_is_compiled(toy: Path, run: Run, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16,), layers_per_block=1, norm_num_groups=8, **kinds
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "folder")
    index = tmp_path / "folder" / "model_index.json"
    index.write_text(index.read_text().replace("DDPMPipeline", "ToyPipeline"))
    options = ("--format", "fp32", "--samples", "2", "--steps", "2")
    done = run(toy, "compile", "folder", "-o", "folder.aigc", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "folder.aigc" / "manifest.json").read_text())["output_shape"] == [1, 8, 8]


def test_a_command_is_run_and_listed(toy: Path, run: Run) -> None:
    assert run(toy, "toy", "you").stdout == "hello you\n"
    assert "say hello" in run(toy, "--help").stdout
    assert "say hello" not in run(toy / "nothing", "--help").stdout
