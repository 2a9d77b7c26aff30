"""Attention against a NumPy loop over heads in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aigc_edge.nn.attention import Attention


@pytest.mark.parametrize(("channels", "head", "heads"), [(8, 4, 2), (8, 8, 1), (12, 32, 1)])
def test_attention(rng: np.random.Generator, channels: int, head: int, heads: int) -> None:
    block = Attention(channels, head).double()
    assert block.heads == heads
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) * 0.4))
    x = rng.standard_normal((2, channels, 3, 4))
    normal = block.norm(torch.from_numpy(x)).detach().numpy().reshape(2, channels, 12)
    weight, bias = block.qkv.weight.detach().numpy()[:, :, 0, 0], block.qkv.bias.detach().numpy()
    query, key, value = np.split(np.einsum("oc,ncl->nol", weight, normal) + bias[:, None], 3, axis=1)
    out, size = np.empty((2, channels, 12)), channels // heads
    for n in range(2):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = query[n, part].T @ key[n, part] / np.sqrt(size)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            out[n, part] = value[n, part] @ (scores / scores.sum(1, keepdims=True)).T
    projected = np.einsum("oc,ncl->nol", block.out.weight.detach().numpy()[:, :, 0, 0], out)
    wanted = x + (projected + block.out.bias.detach().numpy()[:, None]).reshape(x.shape)
    np.testing.assert_allclose(block(torch.from_numpy(x)).detach().numpy(), wanted, rtol=1e-10, atol=1e-10)


def test_an_untrained_block_is_the_identity(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((2, 8, 4, 4)).astype(np.float32))
    assert torch.equal(Attention(8)(x), x)
