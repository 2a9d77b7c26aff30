"""The UNet: shapes, and that every input and every parameter has its influence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aigc_edge.nn.unet import UNet

CASES: dict[str, dict[str, Any]] = {
    "plain": {"widths": (8,), "blocks": (1,)},
    "levels": {"widths": (8, 12, 16), "blocks": (1, 2, 1)},
    "patch": {"widths": (8, 16), "blocks": (1, 1), "patch": 2},
    "attention": {"widths": (8, 16), "blocks": (1, 2), "attention": (1,), "patch": 2},
    "unconditional": {"widths": (8, 16), "blocks": (1, 1), "num_classes": 0},
}


def network(case: str, channels: int = 1) -> UNet:
    """An UNet whose zero-initialised parts are random, so that everything has influence."""
    options = {"num_classes": 4, "embedding": 16} | CASES[case]
    unet = UNet(channels, options.pop("num_classes"), **options).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return unet


def inputs(unet: UNet, batch: int, rng: np.random.Generator, channels: int = 1) -> tuple[torch.Tensor, ...]:
    sample = torch.from_numpy(rng.standard_normal((batch, channels, 16, 16)).astype(np.float32))
    timestep = torch.from_numpy(rng.uniform(-1.5, 1, batch).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 5, batch))
    return (sample, timestep, labels) if unet.embedding.classes is not None else (sample, timestep)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_reach_of_every_input(case: str, channels: int, rng: np.random.Generator) -> None:
    unet = network(case, channels)
    values = inputs(unet, 2, rng, channels)
    with torch.no_grad():
        base = unet(*values)
        assert base.shape == values[0].shape
        for index, value in enumerate(values):
            changed = list(values)
            changed[index] = (value + 1) % 5 if value.dtype == torch.int64 else value + 0.3
            assert float((unet(*changed) - base).abs().min()) > 0  # reaches every pixel


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_gets_a_gradient(case: str, rng: np.random.Generator) -> None:
    unet = network(case)
    values = inputs(unet, 6, rng)
    if len(values) == 3:
        values = (*values[:2], torch.tensor([0, 1, 2, 3, 4, 0]))  # the null class 4 too
    unet(*values).square().sum().backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
