"""Bytes of images: every level, exact ties, clamping, and that nothing is written beyond the image."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.ops import latent_to_rgb8

core = pytest.importorskip("aigc_edge._core")


@pytest.fixture(params=core.isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> object:
    before = core.isa()
    core.set_isa(request.param)
    yield
    core.set_isa(before)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_every_level_comes_back(channels: int, fresh_seed: int) -> None:
    levels = np.random.default_rng(fresh_seed).permutation(np.arange(256 * 2 * channels) % 256)
    expected = levels.reshape(2, 16, 16, channels).astype(np.uint8)
    images = np.ascontiguousarray((expected.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))
    out = np.zeros_like(expected)
    latent_to_rgb8(images, out)
    np.testing.assert_array_equal(out, expected)


def test_ties_go_to_the_even_level_and_the_range_is_clamped() -> None:
    values = np.array([-3.0, -0.5, 0.5, 1.5, 2.5, 253.5, 254.5, 255.5, 1e30, np.inf, -np.inf, np.nan, -np.nan], np.float32)
    out = np.full((1, 1, 13, 1), 99, np.uint8)
    latent_to_rgb8(values.reshape(1, 1, 1, 13), out, 1.0, 0.0)
    assert out.ravel().tolist() == [0, 0, 0, 2, 2, 254, 254, 255, 255, 255, 0, 0, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_nothing_is_written_beyond_the_image(channels: int) -> None:
    for width in range(1, 70):
        room = np.full(width * channels + 80, 171, np.uint8)
        out = room[40 : 40 + width * channels].reshape(1, 1, width, channels)
        latent_to_rgb8(np.zeros((1, channels, 1, width), np.float32), out)
        assert (out == 128).all()
        assert (room[:40] == 171).all()
        assert (room[40 + width * channels :] == 171).all()
