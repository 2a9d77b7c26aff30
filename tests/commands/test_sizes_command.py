"""`--size`, repeated where a bundle is compiled, once where it is sampled, as a user meets it."""

from __future__ import annotations

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
