"""Networks to measure int8 on: usual shapes with random weights, scaled so that the output has unit variance (a half for images).

Random weights are no trained ones: they have neither the outliers nor the redundance of those. What is compared (engines, ways to
quantise) meets the same weights and the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers_networks import DIT, plain
from torch import Tensor, nn

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.models.base import FAMILIES, ModuleComponent

SCHEDULE = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.02, "sigma_max": 80.0, "rho": 7.0}


@dataclass(frozen=True)
class Case:
    """A network with its classes; `goal` is how many times faster than the best float32 engine int8 has to be."""

    make: Callable[[], ModuleComponent]
    goal: float
    classes: int = 0
    diffusion: bool = True


def _denoiser(module: nn.Module, shape: tuple[int, ...], classes: int = 0) -> ModuleComponent:
    image = TensorSpec("sample", "sample", "float32", (BATCH, *shape))
    label = (TensorSpec("class_labels", "class", "int64", (BATCH,)),) if classes else ()
    spec = ComponentSpec(
        "denoiser",
        (image, TensorSpec("timestep", "timestep", "float32", (BATCH,)), *label),
        (TensorSpec("output", "sample", "float32", (BATCH, *shape)),),
    )

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        given = (torch.randn((batch, *shape), generator=generator), torch.randn(batch, generator=generator))
        return (*given, torch.randint(classes, (batch,), generator=generator)) if classes else given

    return ModuleComponent(spec, module.eval(), example)


def _decoder(module: nn.Module, latent: int, shape: tuple[int, ...]) -> ModuleComponent:
    spec = ComponentSpec(
        "decoder",
        (TensorSpec("sample", "sample", "float32", (BATCH, latent)),),
        (TensorSpec("images", "sample", "float32", (BATCH, *shape)),),
    )
    return ModuleComponent(spec, module.eval(), lambda batch, generator: (torch.randn((batch, latent), generator=generator),))


@torch.no_grad()
def _scaled(component: ModuleComponent, last: nn.Module, size: float) -> ModuleComponent:
    """The weights of the linear layer `last` scaled so that the output of the network has standard deviation `size`."""
    for module in component.module.modules():  # as after training: norms that scale and shift
        if isinstance(module, nn.GroupNorm) and module.affine:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    made = component.module(*component.example(8, torch.Generator().manual_seed(1)))
    for value in last.parameters():
        value.mul_(size / made.std())
    return component


def unet() -> ModuleComponent:
    """30 M parameters on 3×64×64, attention at 16×16."""
    from diffusers import UNet2DModel

    inner = UNet2DModel(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(96, 192, 256, 256),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=64,
    )
    return _scaled(_denoiser(plain(inner, 3), (3, 64, 64)), inner.conv_out, 1.0)


def dit() -> ModuleComponent:
    """DiT-S/2 (Peebles and Xie 2023) on 4×32×32 latents: width 384, 12 blocks, 6 heads, 1000 classes."""
    from diffusers import DiTTransformer2DModel

    inner = DiTTransformer2DModel(**DIT, out_channels=8, num_embeds_ada_norm=1000)
    return _scaled(_denoiser(plain(inner, 4), (4, 32, 32), 1000), inner.proj_out_2, 1.0)


def small_unet() -> ModuleComponent:
    """The diffusion family's default: 0.7 M parameters on 1×16×16."""
    family = FAMILIES["diffusion"].from_config({"size": 16, "channels": 1, "num_classes": 10})
    component = next(iter(family.components()))
    with torch.no_grad():
        for value in component.module.parameters():  # what begins with zeros would be simplified away
            if value.ndim > 1 and not value.any():
                value.normal_(0, value[0].numel() ** -0.5)
    last = [m for m in component.module.modules() if isinstance(m, nn.Conv2d)][-1]
    return _scaled(component, last, 1.0)


class _Dcgan(nn.Module):
    """Transposed convolutions, batch norm and ReLU (Radford, Metz and Chintala 2016), as in the PyTorch example."""

    def __init__(self, latent: int = 100, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        sizes = [latent, 8 * width, 4 * width, 2 * width, width]
        parts: list[nn.Module] = []
        for index in range(4):
            stride, padding = (1, 0) if index == 0 else (2, 1)
            parts += [nn.ConvTranspose2d(sizes[index], sizes[index + 1], 4, stride, padding, bias=False)]
            parts += [nn.BatchNorm2d(sizes[index + 1]), nn.ReLU()]
        self.parts = nn.Sequential(*parts)
        self.last = nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False)
        with torch.no_grad():  # as after some training: running averages that are those of its own activations
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
            self.train()(torch.randn(64, latent))

    def forward(self, sample: Tensor) -> Tensor:
        return torch.tanh(self.last(self.parts(sample[:, :, None, None])))


def dcgan() -> ModuleComponent:
    """DCGAN on 3×64×64: 3.6 M parameters."""
    module = _Dcgan()
    return _scaled(_decoder(module, 100, (3, 64, 64)), module.last, 0.5)


class _Modulated(nn.Module):
    """A convolution whose input channels are scaled by the style and whose output has unit variance again (StyleGAN2)."""

    def __init__(self, before: int, after: int, kernel: int, styles: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel) / (before * kernel**2) ** 0.5)
        self.style, self.demodulate = nn.Linear(styles, before), demodulate
        nn.init.normal_(self.style.weight, 0, styles**-0.5)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        y = nn.functional.conv2d(x * style[:, :, None, None], self.weight, padding=self.weight.shape[2] // 2)
        if not self.demodulate:
            return y
        size = torch.rsqrt(style.square() @ self.weight.square().sum((2, 3)).T + 1e-8)
        return y * size[:, :, None, None]


class _Level(nn.Module):
    """Upsampling, two styled convolutions with noise and leaky ReLU, and the image's contribution of this resolution."""

    def __init__(self, before: int, after: int, size: int, styles: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.convolutions = nn.ModuleList([_Modulated(before, after, 3, styles), _Modulated(after, after, 3, styles)][first:])
        self.noise = nn.ParameterList([nn.Parameter(0.1 * torch.randn(1, 1, size, size)) for _ in self.convolutions])
        self.bias = nn.ParameterList([nn.Parameter(0.1 * torch.randn(1, after, 1, 1)) for _ in self.convolutions])
        self.image = _Modulated(after, 3, 1, styles, demodulate=False)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        if not self.first:
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        for convolution, noise, bias in zip(self.convolutions, self.noise, self.bias, strict=True):
            x = nn.functional.leaky_relu(convolution(x, w) + noise + bias, 0.2) * 2**0.5
        made = self.image(x, w)
        if image is not None:
            made = made + nn.functional.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
        return x, made


class _StyleGan(nn.Module):
    def __init__(self, styles: int = 256, widths: tuple[int, ...] = (256, 256, 256, 256, 128)) -> None:
        super().__init__()
        layers = [layer for _ in range(4) for layer in (nn.Linear(styles, styles), nn.LeakyReLU(0.2))]
        self.mapping = nn.Sequential(*layers)
        for layer in self.mapping:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 1.4 * styles**-0.5)
        self.start = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(
            _Level(a, b, 4 * 2**i, styles, i == 0) for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.gain = nn.Linear(1, 1, bias=False)

    def forward(self, sample: Tensor) -> Tensor:
        w = self.mapping(sample * torch.rsqrt(sample.square().mean(1, keepdim=True) + 1e-8))
        x, image = self.start, None  # the first style makes a batch of it
        for level in self.levels:
            x, image = level(x, image, w)
        return image * self.gain.weight[0, 0]


def stylegan() -> ModuleComponent:
    """StyleGAN2-like (Karras et al. 2020) on 3×64×64, 256 styles, in the form that scales activations: 5.6 M parameters."""
    module = _StyleGan()
    return _scaled(_decoder(module, 256, (3, 64, 64)), module.gain, 0.5)


CASES: dict[str, Case] = {
    "unet": Case(unet, 2.4),
    "dit": Case(dit, 2.4, classes=1000),
    "dcgan": Case(dcgan, 2.0, diffusion=False),
    "stylegan": Case(stylegan, 2.0, diffusion=False),
    "small-unet": Case(small_unet, 2.0, classes=10),
}


def parameters(component: ModuleComponent) -> int:
    """How many weights it has."""
    return sum(value.numel() for value in component.module.parameters())


def build(name: str, seed: int = 0) -> ModuleComponent:
    """The network of that name with the weights of `seed`."""
    torch.manual_seed(seed)
    return CASES[name].make()


def settings(**values: Any) -> dict[str, Any]:
    """The schedule of the denoisers with `values` in place of its own."""
    return SCHEDULE | values
