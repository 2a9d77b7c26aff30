"""Blocks against independent NumPy references in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aigc_edge.nn.blocks import Downsample, Modulation, ResBlock, Upsample, group_norm

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array, *, stride: int = 1, padding: int = 1) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kernel = weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]


def normalise(x: Array, groups: int) -> Array:
    parts = x.reshape(len(x), groups, -1)
    parts = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 1e-5)
    return parts.reshape(x.shape)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def randomise(module: torch.nn.Module, rng: np.random.Generator) -> dict[str, Array]:
    """Give every parameter random values (some start at zero); returns them."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) * 0.3))
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(("inside", "outside"), [(8, 8), (8, 12), (20, 8)])
def test_res_block(rng: np.random.Generator, inside: int, outside: int) -> None:
    block = ResBlock(inside, outside)
    p = randomise(block, rng)
    x = rng.standard_normal((2, inside, 5, 7))
    scale, shift = rng.standard_normal((2, 2, outside, 1, 1))
    h = normalise(x, block.norm1.num_groups) * p["norm1.weight"][:, None, None] + p["norm1.bias"][:, None, None]
    h = convolve(silu(h), p["conv1.weight"], p["conv1.bias"])
    h = convolve(silu(normalise(h, block.norm2.num_groups) * scale + shift), p["conv2.weight"], p["conv2.bias"])
    skip = x if inside == outside else convolve(x, p["skip.weight"], p["skip.bias"], padding=0)
    made = block(*map(torch.from_numpy, (x, scale, shift)))
    np.testing.assert_allclose(made.detach().numpy(), skip + h, rtol=1e-10, atol=1e-10)


def test_an_untrained_block_is_its_skip(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((2, 8, 4, 4)))
    one, zero = torch.ones(2, 8, 1, 1, dtype=torch.float64), torch.zeros(2, 8, 1, 1, dtype=torch.float64)
    assert torch.equal(ResBlock(8, 8).double()(x, one, zero), x)


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 2), (12, 3), (14, 2), (64, 16), (96, 24), (256, 32), (7, 1)])
def test_groups_have_four_channels_and_divide(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups
    assert channels % groups == 0


def test_resampling(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 4, 6, 8))
    down, up = Downsample(4, 5), Upsample(4, 3)
    p, q = randomise(down, rng), randomise(up, rng)
    wanted = convolve(x, p["conv.weight"], p["conv.bias"], stride=2)
    np.testing.assert_allclose(down(torch.from_numpy(x)).detach().numpy(), wanted, rtol=1e-10, atol=1e-10)
    wanted = convolve(x.repeat(2, axis=2).repeat(2, axis=3), q["conv.weight"], q["conv.bias"])
    np.testing.assert_allclose(up(torch.from_numpy(x)).detach().numpy(), wanted, rtol=1e-10, atol=1e-10)


def test_modulation_is_one_product_cut_in_pieces(rng: np.random.Generator) -> None:
    modulation = Modulation(6, [4, 8])
    embedding = torch.from_numpy(rng.standard_normal((3, 6)).astype(np.float32))
    for scale, shift in modulation(embedding):  # untrained: the condition has no influence
        assert torch.equal(scale, torch.ones_like(scale))
        assert torch.equal(shift, torch.zeros_like(shift))
    p = randomise(modulation, rng)
    whole = embedding.double().numpy() @ p["linear.weight"].T + p["linear.bias"]
    pieces = [piece.detach().numpy()[:, :, 0, 0] for pair in modulation(embedding.double()) for piece in pair]
    assert [piece.shape[1] for piece in pieces] == [4, 4, 8, 8]
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-12, atol=1e-12)
