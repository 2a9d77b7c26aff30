"""Augmentation against exact moves of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aigc_edge.data.augment import augment


def images(rng: np.random.Generator, count: int = 8, size: int = 16) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(-1, 1, (count, 1, size, size)).astype(np.float32))


def test_nothing_asked_nothing_done(rng: np.random.Generator) -> None:
    x = images(rng)
    assert augment(x, torch.Generator()) is x


def test_flip_mirrors_about_half(rng: np.random.Generator) -> None:
    x = images(rng, 400)
    y = augment(x, torch.Generator().manual_seed(1), flip=True)
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (y == x).flatten(1).all(1)).all())
    assert 150 < int(mirrored.sum()) < 250


def test_shift_moves_within_its_bound() -> None:
    """The centre of a blob moves by at most the share of the size, in both directions, evenly."""
    axis = torch.arange(32.0)
    blob = torch.exp(-((axis[:, None] - 15.5) ** 2 + (axis - 15.5) ** 2) / 8).expand(500, 1, -1, -1)
    y = augment(blob, torch.Generator().manual_seed(2), shift=0.125)
    weight = y / y.sum((2, 3), keepdim=True)
    for moved in ((weight.sum(3)[:, 0] * axis).sum(1) - 15.5, (weight.sum(2)[:, 0] * axis).sum(1) - 15.5):
        assert float(moved.abs().max()) <= 4.05
        assert float(moved.max()) > 3.5
        assert float(moved.min()) < -3.5
        assert float(moved.std()) == pytest.approx(8 / 12**0.5, rel=0.1)


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_turns_about_the_centre(turn: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(rng, 2)
    # Four numbers an image: dx, dy, turn, zoom; 1 is the upper bound.
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, 1.0 if turn > 0 else 0.0))
    y = augment(x, torch.Generator(), rotate=float(abs(turn)))
    wanted = [torch.rot90(x, times, (2, 3)) for times in (turn // 90, -turn // 90)]
    assert min(float((y - w).abs().max()) for w in wanted) < 1e-4


def test_zoom_scales_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    for end, factor in ((1.0, 1.25), (0.0, 0.75)):
        monkeypatch.setattr(torch, "rand", lambda *shape, generator, end=end: torch.full(shape, end))
        y = augment(ramp, torch.Generator(), zoom=0.25)
        middle = y[0, 0, :, 12:20]
        torch.testing.assert_close(middle, (ramp / factor)[0, 0, :, 12:20], atol=5e-3, rtol=0)  # a pixel is 0.06; bicubic bends


@pytest.mark.parametrize("options", [{"shift": 0.1}, {"rotate": 20.0, "zoom": 0.2}, {"flip": True, "shift": 0.05}])
def test_range_and_repeatability(options: dict[str, Any], rng: np.random.Generator) -> None:
    x = images(rng)
    first, again = (augment(x, torch.Generator().manual_seed(7), **options) for _ in range(2))
    other = augment(x, torch.Generator().manual_seed(8), **options)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) >= float(x.min())
    assert float(first.max()) <= float(x.max())


def test_gradients_flow_to_generated_images(rng: np.random.Generator) -> None:
    x = images(rng).requires_grad_()
    augment(x, torch.Generator().manual_seed(1), flip=True, shift=0.1, rotate=10, zoom=0.1).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().mean()) > 0.1
