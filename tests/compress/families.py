"""Networks of every family at a size where compression pays: a UNet that was trained, a GAN's generator, a transformer."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import torch
from onnx_ir import to_proto
from torch import Tensor, nn

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.diffusion import Program, build
from aigc_edge.export.onnx import to_ir
from aigc_edge.models.base import FAMILIES, ModuleComponent

SCHEDULE = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


class Transformer(nn.Module):
    """Patches of 2, attention and a feed-forward part in each block; time and class are tokens of their own."""

    def __init__(self, width: int = 64, blocks: int = 2, heads: int = 4, classes: int = 40) -> None:
        super().__init__()
        self.heads, self.patches = heads, 16
        self.patch = nn.Conv2d(4, width, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, self.patches, width) * 0.5)
        self.time = nn.Linear(16, width)
        self.classes = nn.Embedding(classes + 1, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.project = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(blocks))
        self.join = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 16)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        angles = timestep[:, None] * torch.exp(-math.log(1e2) * torch.arange(8) / 8)
        extra = torch.stack([self.time(torch.cat([angles.cos(), angles.sin()], 1)), self.classes(class_labels)], 1)
        x = torch.cat([self.patch(sample).flatten(2).transpose(1, 2) + self.position, extra], 1)
        for index, (project, join, mix) in enumerate(zip(self.project, self.join, self.mixers, strict=True)):
            q, k, v = project(self.norms[2 * index](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = x + join(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + mix(self.norms[2 * index + 1](x))
        return nn.functional.pixel_shuffle(self.head(x[:, : self.patches]).transpose(1, 2).unflatten(2, (4, 4)), 2)


def transformer() -> ModuleComponent:
    """A denoiser of 4×8×8 latents with 40 classes."""
    torch.manual_seed(0)
    module = Transformer().eval()
    with torch.no_grad():
        for norm in module.norms:  # channels of very different size: what a trained network has
            norm.weight.copy_(torch.exp(torch.randn(64) * 0.7))
            norm.bias.normal_(0, 0.1)
    image = TensorSpec("sample", "sample", "float32", (BATCH, 4, 8, 8))
    inputs = (
        image,
        TensorSpec("timestep", "timestep", "float32", (BATCH,)),
        TensorSpec("class_labels", "class", "int64", (BATCH,)),
    )

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        time = torch.randn(batch, generator=generator)
        return torch.randn((batch, 4, 8, 8), generator=generator), time, torch.randint(40, (batch,), generator=generator)

    return ModuleComponent(
        ComponentSpec("denoiser", inputs, (TensorSpec("output", "sample", "float32", image.shape),)), module, example
    )


def generator() -> ModuleComponent:
    """The gan family's, of 16×16 images with 10 classes; its convolutions keep their variance."""
    torch.manual_seed(0)
    family = FAMILIES["gan"].from_config({"size": 16, "channels": 1, "num_classes": 10, "width": 16, "max_width": 64})
    (component,) = family.components()
    return component


def digits(bundle: Path) -> tuple[Path, ComponentSpec, Program, int]:
    """The denoiser of the repository's small trained bundle, with its default program."""
    manifest = Bundle.open(bundle).manifest
    program = manifest.programs[manifest.default_program]
    return bundle / manifest.main.file("fp32"), manifest.main.onnx, program, 10


def exported(component: ModuleComponent, folder: Path, classes: int) -> tuple[Path, ComponentSpec, Program, int]:
    """A component with random weights as an ONNX file, with a program of four rows (none for a generator)."""
    path = folder / f"{classes}.onnx"
    onnx.save(to_proto(to_ir(component)), path)
    one_shot = component.spec.name == "decoder"
    program = Program("one", slots=1, init_scale=1.0, rows=()) if one_shot else build(SCHEDULE, "dpmpp_2m", 4)
    return path, component.spec, program, classes
