"""Embeddings against NumPy, and what the null class and the timestep's branch promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aigc_edge.nn.embeddings import ConditionEmbedding, FourierFeatures


def test_fourier_features(rng: np.random.Generator) -> None:
    x = rng.uniform(-1.6, 1.1, 50).astype(np.float32)
    periods = np.geomspace(0.125, 8, 16)
    angles = 2 * np.pi * x[:, None].astype(np.float64) * periods
    made = FourierFeatures(32)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(made, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=5e-5)


@pytest.mark.parametrize("channels", [0, 2, 7])
def test_fourier_features_refuse(channels: int) -> None:
    with pytest.raises(ValueError, match="even"):
        FourierFeatures(channels)


def test_features_tell_noise_levels_apart() -> None:
    """The nearest neighbour of every level's features is the level itself, with a margin, over EDM's whole range."""
    levels = torch.log(torch.logspace(np.log10(0.002), np.log10(80), 60)) / 4
    features = FourierFeatures(32)(levels)
    distance = torch.cdist(features, features) + 100 * torch.eye(60)
    assert float(distance.min()) > 0.3


def test_condition_embedding(rng: np.random.Generator) -> None:
    embedding = ConditionEmbedding(16, 3).double()
    embedding.features.frequencies = embedding.features.frequencies.double()
    timestep, labels = rng.uniform(-1.5, 1, 8), np.array([0, 1, 2, 3, 3, 2, 1, 0])
    p = {name: value.detach().numpy() for name, value in embedding.named_parameters()}
    features = embedding.features(torch.from_numpy(timestep)).numpy()

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    hidden = silu(features @ p["hidden.weight"].T + p["hidden.bias"])
    wanted = silu(hidden @ p["time.weight"].T + p["time.bias"] + p["classes.weight"][labels])
    made = embedding(torch.from_numpy(timestep), torch.from_numpy(labels)).detach().numpy()
    np.testing.assert_allclose(made, wanted, rtol=1e-10, atol=1e-12)
    assert ConditionEmbedding(16, 0).classes is None
