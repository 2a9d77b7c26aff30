"""The schedule of a bundle whose networks are all small is small too."""

from __future__ import annotations

import torch
from torch import nn

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.compile import compile_source
from aigc_edge.metrics.paired import relative_l2
from aigc_edge.sources.generator import Generator


def test_a_bundle_without_fp32_stores_its_schedule_small_too(tmp_path, monkeypatch):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 8))
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))

        def forward(self, sample, timestep):
            return self.body(sample) + self.time(timestep[:, None] / 1000)[:, :3, None, None]

    torch.manual_seed(0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    schedule = {"prediction": "epsilon", "betas": "linear"}
    source = Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=Network(), schedule=schedule, name="small")
    for formats in (["fp32"], ["int8w:psnr=0"]):
        compile_source(source, tmp_path / f"{formats[0][:4]}.aigc", formats=formats, samples=2, threads=1)
    manifest = Bundle.open(tmp_path / "int8.aigc", verify=True).manifest.to_json()
    assert list(manifest["components"]["schedule"]["formats"]) == ["int8w"]
    assert "schedule.fp32.onnx" not in manifest["files"]
    with aigc_edge.open(tmp_path / "fp32.aigc", threads=1) as whole, aigc_edge.open(tmp_path / "int8.aigc", threads=1) as small:
        for given in ({}, {"solver": "euler", "steps": 7}):  # of the table, and of timesteps that are in no program
            wanted, found = (p.sample(3, seed=5, output="float32", **given) for p in (whole, small))
            assert 0 < relative_l2(found, wanted) < 0.05
