"""Noise of other tools, for the same seeds."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.diffusion import noise
from aigc_edge.errors import ProgramError

# torch.manual_seed(0); torch.randn(12, device="cuda"), as published by others.
TORCH_CUDA_SEED_0 = [
    -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564, -0.62285122, -0.32838709, -1.07454231,
    -0.36314407, -1.67105067, 2.26550497,
]  # fmt: skip


def test_torch_cuda_is_what_a_gpu_gives() -> None:
    found = noise.draw("torch-cuda", [0, 5], (3, 4), 2)
    np.testing.assert_allclose(found[0, 0].ravel(), TORCH_CUDA_SEED_0, atol=2e-6)
    assert len(np.unique(found)) == found.size  # other seeds and later calls are other numbers
    large = noise.draw("torch-cuda", [2**64 - 1], (24_576,), 1)
    assert abs(large.mean()) < 0.03
    assert abs(large.std() - 1) < 0.02
    with pytest.raises(ProgramError, match="more than 24576 numbers, these have 24577"):
        noise.draw("torch-cuda", [1], (24_577,), 1)


def test_torch_cpu_is_what_diffusers_draws_with_a_list_of_generators() -> None:
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("diffusers.utils.torch_utils")
    seeds = [7, 2**63 - 1, 0]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    expected = [utils.randn_tensor((3, 2, 5, 5), generator=generators).numpy() for _ in range(3)]
    np.testing.assert_array_equal(noise.draw("torch-cpu", seeds, (2, 5, 5), 3), expected)
    np.testing.assert_array_equal(
        noise.draw("torch-cpu", [2**64 - 3], (4,), 1)[0, 0], torch.randn(4, generator=torch.Generator().manual_seed(-3)).numpy()
    )


def test_numpy_is_default_rng() -> None:
    seed = int(np.random.default_rng().integers(2**62))
    generator = np.random.default_rng(seed)
    expected = [generator.standard_normal((1, 6), dtype=np.float32) for _ in range(2)]
    np.testing.assert_array_equal(noise.draw("numpy", [seed], (6,), 2), expected)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ProgramError, match="numpy"):
        noise.draw("dice", [1], (2,), 1)
