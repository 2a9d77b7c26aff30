"""`--size`, repeated where a bundle is compiled, once where it is sampled, as a user meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MODULE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Tanh()), torch.randn(1, 3, 8, 8)
"""


def test_compile_inspect_and_sample_at_every_size(cli: Any) -> None:
    (cli.folder / "network_of_sizes.py").write_text(MODULE)
    source, options = "network_of_sizes:build", ["--format", "fp32", "--samples", "2", "--threads", "1", "-o", "a.aigc"]
    sizes = ["--size", "8x8", "--size", "12x20", "--size", "8x8"]
    done = cli.run("compile", source, *options, *sizes, before="import sys; sys.path.insert(0, '.')")
    assert done.returncode == 0, done.stderr
    assert "sizes 8x8 (default), 12x20" in done.stdout
    assert "[N, 3, H, W]" in done.stdout
    for chosen, shape in ([], (8, 8)), (["--size", "12x20"], (12, 20)):
        done = cli.run("sample", "a.aigc", "-n", "2", "--npz", "out.npz", *chosen)
        assert done.returncode == 0, done.stderr
        assert np.load(cli.folder / "out.npz")["images"].shape == (2, *shape, 3)
    cli.refuse("sample", "a.aigc", "--size", "16x16", says=("has no size 16x16: choose one of 8x8, 12x20",))


def test_sample_in_tiles(cli: Any) -> None:
    bundle = str(Path(__file__).parents[1] / "bundle" / "data" / "sizes.aigc")  # of 16x16 and 24x32, latents of half of that
    tiles = ["--size", "40x56", "--denoising-tile", "16x16", "--tile", "24x20"]
    done = cli.run("sample", bundle, "-n", "2", "--npz", "out.npz", *tiles)
    assert done.returncode == 0, done.stderr
    assert np.load(cli.folder / "out.npz")["images"].shape == (2, 40, 56, 3)
    cli.refuse("sample", bundle, "--tile", "0x16", says=("'0x16' was given, a height and width such as 512x768 is allowed",))
    cli.refuse("sample", bundle, "--tile", "-8x16", says=("--tile",))
    cli.refuse("sample", bundle, "--tile", "15x16", says=("its height and width must be multiples of 2x2 pixels",))
    cli.refuse("sample", bundle, "--tile", "16x16", "--overlap", "16", says=("no overlap of 16 pixels",))
    cli.refuse("sample", bundle, "--tile", "16x16", "--overlap", "-2", says=("--overlap",))
    cli.refuse("sample", bundle, "--size", "40x56", "--tile", "16x16", says=("give one of them as denoising_tile",))
    cli.refuse("sample", bundle, "--size", "40x56", "--denoising-tile", "20x20", says=("choose a size that the bundle was",))
