"""The float64 yardstick: convolutions in strips are the same convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from aigc_edge.export import double
from aigc_edge.export.double import conv2d, evaluate, in_double


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(3, 1, 1, 1, 1), ((3, 5), (2, 1), (0, 2), 1, 2), (1, 2, 0, 1, 1), (3, 1, (2, 2), 2, 4), (4, 3, 1, 1, 1)],
)
def test_strips_are_the_whole(monkeypatch, rng, kernel, stride, padding, dilation, groups) -> None:
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    inputs = torch.tensor(rng.standard_normal((3, 8, int(rng.integers(9, 30)), 11)))
    weight, bias = torch.tensor(rng.standard_normal((4, 8 // groups, high, wide))), torch.tensor(rng.standard_normal(4))
    options = (stride, padding, dilation, groups)
    wanted = nn.functional.conv2d(inputs, weight, bias, *options)
    monkeypatch.setattr(double, "COLUMNS", int(rng.integers(1, 40_000)))
    made = conv2d(inputs, weight, bias, *options)
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made.numpy(), wanted.numpy(), rtol=0, atol=1e-12 * float(wanted.abs().max()))


def test_a_module_is_in_double_and_back(monkeypatch, rng) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(4, 2, 2, 2)).requires_grad_(False)
    before = [value.clone() for value in net.parameters()]
    inputs = torch.tensor(rng.standard_normal((2, 3, 9, 7)), dtype=torch.float32)
    single = net(inputs).numpy()
    monkeypatch.setattr(double, "COLUMNS", 1)
    with in_double(net) as twin:
        (made,), longest = evaluate(twin, (inputs,), torch.float64)
    assert longest == 1
    assert made.dtype == np.float64
    assert 0 < np.linalg.norm(made - single) < 1e-5 * np.linalg.norm(made)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("layer", "terms"),
    [(nn.GroupNorm(2, 8), 4 * 5 * 6), (nn.LayerNorm([5, 6]), 30), (nn.RMSNorm(6), 6), (nn.InstanceNorm2d(8), 30), (nn.SiLU(), 1)],
)
def test_the_longest_sum_is_noted(layer: nn.Module, terms: int) -> None:
    for dtype in (torch.float32, torch.float64):
        net = nn.Sequential(nn.Conv2d(8, 8, 1), layer).to(dtype)
        assert evaluate(net, (torch.ones(3, 8, 5, 6, dtype=dtype),), dtype)[1] == terms


def test_a_mean_is_a_sum() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=(2, 3), keepdim=True)

    assert evaluate(Mean(), (torch.ones(3, 8, 5, 6),), torch.float32)[1] == 30
