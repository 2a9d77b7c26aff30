"""EDM: the identities of its preconditioning, its loss, its noise levels, and the schedule it tells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.diffusion import DenoisingObjective, Diffusion, DiffusionModel, DiffusionTraining, preconditioning


def model(**changes: Any) -> Diffusion:
    options = {"size": 8, "channels": 1, "num_classes": 2, "widths": (8, 8), "blocks": (1, 1), "patch": 1, "embedding": 8}
    return Diffusion(DiffusionModel(**(options | changes)))


def objective(family: Diffusion, **settings: Any) -> DenoisingObjective:
    return family.objective(DiffusionTraining(**settings), lambda images, generator: images)


def levels(rng: np.random.Generator, count: int = 200) -> Tensor:
    return torch.from_numpy(np.exp(rng.uniform(math.log(0.002), math.log(80), count)))


def test_preconditioning_keeps_variances_at_one(rng: np.random.Generator) -> None:
    """EDM appendix B.6: unit variance of the network's input and of its target, and the least amplification of its errors."""
    sigma, data = levels(rng), float(rng.uniform(0.2, 1))
    c_skip, c_out, c_in, c_noise = preconditioning(sigma, data)
    torch.testing.assert_close(c_in**2 * (data**2 + sigma**2), torch.ones_like(sigma))
    # target = (y - c_skip (y + sigma n)) / c_out with independent y of variance data² and n of variance 1
    variance = ((1 - c_skip) ** 2 * data**2 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(variance, torch.ones_like(sigma))
    for change in (-1e-3, 1e-3):  # c_skip minimises c_out
        moved = c_skip + change
        assert bool((((1 - moved) ** 2 * data**2 + moved**2 * sigma**2) > c_out**2).all())
    torch.testing.assert_close(c_noise, sigma.log() / 4)


class Perfect(nn.Module):
    """The F of the best denoiser for data that are normal with standard deviation `spread`: D(x) = x spread²/(spread² + σ²)."""

    def __init__(self, spread: float, data: float) -> None:
        super().__init__()
        self.spread, self.data = spread, data

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        sigma = (4 * c_noise).exp()
        c_skip, c_out, c_in, _ = (c.view(-1, 1, 1, 1) for c in preconditioning(sigma, self.data))
        best = self.spread**2 / (self.spread**2 + sigma**2)
        return (best.view(-1, 1, 1, 1) - c_skip) * (x / c_in) / c_out


def test_the_loss_is_the_weighted_denoising_error(rng: np.random.Generator) -> None:
    family = model(sigma_data=0.6)
    family.denoiser = Perfect(0.3, 0.6)  # type: ignore[assignment]
    images = torch.from_numpy(rng.standard_normal((64, 1, 8, 8)) * 0.3)
    noise, sigma = torch.from_numpy(rng.standard_normal((64, 1, 8, 8))), levels(rng, 64)
    labels = torch.zeros(64, dtype=torch.int64)
    denoised = family.denoise(images + sigma.view(-1, 1, 1, 1) * noise, sigma, labels)
    weight = (sigma**2 + 0.36) / (sigma * 0.6) ** 2  # λ(σ) of EDM, table 1
    wanted = (weight.view(-1, 1, 1, 1) * (denoised - images) ** 2).mean()
    made = DenoisingObjective.loss(family, images, labels, sigma, noise)
    assert float(made) == pytest.approx(float(wanted), rel=1e-5)  # the loss ends in float32


def test_the_best_denoiser_has_the_least_loss(rng: np.random.Generator) -> None:
    """For normal data the optimum is known: a denoiser for another spread does worse, and the optimum meets its exact loss."""
    family, data = model(sigma_data=0.5), 0.5
    images = torch.from_numpy(rng.standard_normal((4096, 1, 8, 8)) * 0.3)
    noise, sigma = torch.from_numpy(rng.standard_normal(images.shape)), levels(rng, 4096)
    labels = torch.zeros(4096, dtype=torch.int64)
    found = []
    for spread in (0.2, 0.3, 0.45):
        family.denoiser = Perfect(spread, data)  # type: ignore[assignment]
        found.append(float(DenoisingObjective.loss(family, images, labels, sigma, noise)))
    assert found[1] < min(found[0], found[2])
    exact = (sigma**2 + data**2) / (sigma * data) ** 2 * (0.09 * sigma**2 / (0.09 + sigma**2))
    assert found[1] == pytest.approx(float(exact.mean()), rel=0.02)


def test_gradient_of_the_loss_by_differences(rng: np.random.Generator) -> None:
    family = model()
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) * 0.3))
    family.double()
    family.denoiser.embedding.features.frequencies = family.denoiser.embedding.features.frequencies.double()
    images, noise = (torch.from_numpy(rng.standard_normal((3, 1, 8, 8))) for _ in range(2))
    labels, sigma = torch.tensor([0, 1, 2]), levels(rng, 3)

    def loss() -> Tensor:
        # As DenoisingObjective.loss, without its float32 ending
        c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1, 1) for c in preconditioning(sigma, 0.5))
        x = images + sigma.view(-1, 1, 1, 1) * noise
        return (family.network(c_in * x, c_noise.flatten(), labels) - (images - c_skip * x) / c_out).square().mean()

    loss().backward()
    with torch.no_grad():
        single = DenoisingObjective.loss(family, images, labels, sigma, noise)
        assert float(loss()) == pytest.approx(float(single), rel=1e-5)
    for parameter in family.parameters():
        assert parameter.grad is not None
        direction = torch.from_numpy(rng.standard_normal(parameter.shape))
        values = []
        with torch.no_grad():
            for step in (1e-6, -1e-6):
                parameter.add_(step * direction)
                values.append(float(loss()))
                parameter.sub_(step * direction)
        slope = float((parameter.grad * direction).sum())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_noise_levels_are_log_normal_and_stratified() -> None:
    images = torch.zeros(1000, 1, 8, 8)
    sigma, noise = objective(model(), p_mean=-0.7, p_std=1.3).draw(images, torch.Generator().manual_seed(3))
    standard = ((sigma.double().log() + 0.7) / 1.3).sort().values
    share = 0.5 * (1 + torch.erf(standard / math.sqrt(2)))
    edges = torch.arange(1000, dtype=torch.float64) / 1000
    assert bool(((share >= edges - 1e-5) & (share <= edges + 0.001 + 1e-5)).all())  # one in each thousandth
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    # The order says nothing of the level.
    assert abs(float(torch.corrcoef(torch.stack([sigma.log(), torch.arange(1000.0)]))[0, 1])) < 0.15


def test_class_dropout_hides_its_share() -> None:
    class Spy(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
            self.labels = labels
            return x

    family = model()
    family.denoiser = Spy()  # type: ignore[assignment]
    goal = objective(family, class_dropout=0.25)
    labels = torch.arange(4000) % 2
    next(goal.losses(torch.zeros(4000, 1, 8, 8), labels, 0, torch.Generator().manual_seed(0)))
    hidden = family.denoiser.labels == 2
    assert abs(float(hidden.float().mean()) - 0.25) < 0.03
    assert torch.equal(family.denoiser.labels[~hidden], labels[~hidden])
    goal.validation(family, torch.zeros(10, 1, 8, 8), labels[:10], torch.Generator())
    assert torch.equal(family.denoiser.labels, labels[:10])  # validation hides none


def test_the_schedule_is_the_models() -> None:
    assert model(sigma_data=0.7, sigma_max=40.0).schedule == {
        "prediction": "edm",
        "sigma_data": 0.7,
        "sigma_min": 0.002,
        "sigma_max": 40.0,
        "rho": 7.0,
    }


def test_the_datas_spread_is_measured(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    found = Diffusion.for_data(images, 4)
    assert found["sigma_data"] == pytest.approx((images / 127.5 - 1).std(), abs=5e-4)
    assert (found["size"], found["channels"], found["num_classes"]) == (8, 3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 9}, "multiple of 2"),
        ({"blocks": (1,)}, "one of each per level"),
        ({"attention": (2,)}, "levels from 0 to 1"),
        ({"patch": 4, "size": 12}, "multiple of 8"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AigcEdgeError, match=message):
        model(**changes)
