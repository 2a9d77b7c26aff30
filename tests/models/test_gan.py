"""The GAN: R1 against differences, the losses' directions, and what the generator promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.gan import AdversarialObjective, Discriminator, Gan, GanModel, GanTraining


def small(**changes: Any) -> GanModel:
    return GanModel(**({"size": 16, "channels": 1, "num_classes": 3, "latent": 8, "width": 8} | changes))


def plain(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


@pytest.mark.parametrize(("size", "widths"), [(8, [16, 8]), (16, [32, 16, 8]), (32, [64, 32, 16, 8]), (64, [64, 64, 32, 16, 8])])
def test_sizes(size: int, widths: list[int]) -> None:
    model = small(size=size, max_width=64, channels=3)
    assert model.widths() == widths
    family = Gan(model).eval()
    images = family.decode(torch.randn(2, 8), torch.tensor([0, 2]))
    assert images.shape == (2, 3, size, size)
    assert float(images.detach().abs().max()) <= 1
    assert Discriminator(model)(images, torch.tensor([0, 2])).shape == (2,)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(AigcEdgeError, match="power of two"):
        Gan(small(size=24))


def test_r1_is_half_the_squared_norm_of_the_gradient(rng: np.random.Generator) -> None:
    goal = AdversarialObjective(Gan(small()), GanTraining(), plain)
    goal.discriminator.double()
    images = torch.from_numpy(rng.standard_normal((3, 1, 16, 16)))
    labels = torch.tensor([0, 1, 2])
    gradient = np.empty((3, 256))
    with torch.no_grad():
        for pixel in range(256):
            step = torch.zeros(256, dtype=torch.float64)
            step[pixel] = 1e-6
            ends = [goal.discriminator(images + sign * step.view(1, 1, 16, 16), labels) for sign in (1, -1)]
            gradient[:, pixel] = ((ends[0] - ends[1]) / 2e-6).numpy()
    wanted = 0.5 * (gradient**2).sum(1).mean()
    penalty = goal.penalty(images, labels)
    assert float(penalty.detach()) == pytest.approx(wanted, rel=1e-4)
    penalty.backward()  # it must reach the weights: it is minimised
    weight = goal.discriminator.body[0].weight.grad
    assert weight is not None
    assert float(weight.abs().sum()) > 0


def test_lazy_r1_is_as_strong_on_average(rng: np.random.Generator) -> None:
    """Every `r1_every` steps the loss has r1 · r1_every · penalty more than without, at other steps nothing."""
    images, labels = torch.from_numpy(rng.uniform(-1, 1, (6, 1, 16, 16)).astype(np.float32)), torch.arange(6) % 3
    family = Gan(small())
    found: dict[float, list[float]] = {}
    for r1 in (0.0, 0.5):
        goal = AdversarialObjective(family, GanTraining(r1=r1, r1_every=4), plain)
        with torch.no_grad():
            for parameter in goal.discriminator.parameters():
                parameter.fill_(0.02)
        losses = [next(goal.losses(images, labels, step, torch.Generator().manual_seed(9)))[1] for step in range(5)]
        found[r1] = [float(loss.detach()) for loss in losses]
    difference = np.subtract(found[0.5], found[0.0])
    assert difference[[0, 4]] == pytest.approx(0.5 * 4 * float(goal.penalty(images, labels).detach()), rel=1e-3)
    assert difference[1:4] == pytest.approx(0, abs=1e-6)


def test_losses_are_non_saturating_and_update_one_network_each(rng: np.random.Generator) -> None:
    family = Gan(small())
    goal = AdversarialObjective(family, GanTraining(r1=0.0), plain)
    images, labels = torch.from_numpy(rng.uniform(-1, 1, (6, 1, 16, 16)).astype(np.float32)), torch.arange(6) % 3
    seen: list[Tensor] = []
    handle = goal.discriminator.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    turns = goal.losses(images, labels, 1, torch.Generator().manual_seed(1))
    name, loss = next(turns)
    assert name == "discriminator"
    real, fake = seen
    assert float(loss.detach()) == pytest.approx(float((F.softplus(-real) + F.softplus(fake)).mean()), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in family.decoder.parameters())
    for parameter in goal.discriminator.parameters():
        parameter.grad = None
    name, loss = next(turns)
    assert name == "decoder"
    assert float(loss.detach()) == pytest.approx(float(F.softplus(-seen[2]).mean()), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in family.decoder.parameters())
    assert all(p.grad is None for p in goal.discriminator.parameters())
    assert next(turns, None) is None
    handle.remove()


def test_generated_images_are_augmented_like_real_ones() -> None:
    calls = []

    def spy(images: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(images.shape)
        return images

    goal = AdversarialObjective(Gan(small()), GanTraining(), spy)
    list(goal.losses(torch.zeros(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64), 0, torch.Generator()))
    assert calls == [(4, 1, 16, 16)] * 2  # one for each network's turn


def test_the_class_matters_to_both(rng: np.random.Generator) -> None:
    family = Gan(small()).eval()
    latents = torch.from_numpy(rng.standard_normal((1, 8)).astype(np.float32)).expand(3, -1)
    images = family.decode(latents, torch.arange(3))
    assert float((images[0] - images[1]).detach().abs().max()) > 1e-3
    logits = Discriminator(small())(images[:1].expand(3, -1, -1, -1), torch.arange(3)).detach()
    assert len(set(logits.tolist())) == 3
    unconditional = Gan(small(num_classes=0))
    assert not any(isinstance(m, nn.Embedding) for m in unconditional.modules())
