"""Networks of diffusers: what depends on their timestep alone is found, and leaves without a change of a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.export.onnx import to_ir
from aigc_edge.export.schedule import split_schedule
from aigc_edge.models.base import ModuleComponent

diffusers = pytest.importorskip("diffusers")
SHAPE, CLASSES = (4, 8, 8), 5


class Wrapped(nn.Module):
    """The network as a component: positional inputs, a tensor as output."""

    def __init__(self, network: nn.Module, labelled: bool) -> None:
        super().__init__()
        self.network, self.labelled = network, labelled

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Any:
        labels = {"class_labels": class_labels} if self.labelled else {}
        return self.network(sample, timestep=timestep, **labels, return_dict=False)[0]


def unet() -> nn.Module:
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "norm_num_groups": 8}
    kinds = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    return diffusers.UNet2DModel(**sizes, **kinds, layers_per_block=1, add_attention=False)


def transformer() -> nn.Module:
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "patch_size": 2, "num_layers": 2, "norm_num_groups": 8}
    heads = {"num_attention_heads": 2, "attention_head_dim": 16, "num_embeds_ada_norm": CLASSES}
    return diffusers.DiTTransformer2DModel(**sizes, **heads)


@pytest.mark.parametrize(("make", "labelled", "share"), [(unet, False, (0.07, 0.2)), (transformer, True, (0.1, 0.4))])
def test_the_schedule_of_a_diffusers_network(
    rng: np.random.Generator, make: Any, labelled: bool, share: Any, run_onnx: Any
) -> None:
    module = Wrapped(make(), labelled).eval()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    image = TensorSpec("sample", "sample", "float32", (BATCH, *SHAPE))
    inputs = [image, TensorSpec("timestep", "timestep", "float32", (BATCH,))]
    inputs += [TensorSpec("class_labels", "class", "int64", (BATCH,))] if labelled else []

    def example(batch: int, source: torch.Generator) -> tuple[Tensor, ...]:
        given = (torch.randn((batch, *SHAPE), generator=source), torch.rand(1, generator=source).repeat(batch) * 999)
        return (*given, torch.randint(CLASSES, (batch,), generator=source)) if labelled else given

    output = TensorSpec("output", "sample", "float32", image.shape)
    whole = to_ir(ModuleComponent(ComponentSpec("denoiser", tuple(inputs), (output,)), module, example))
    denoiser, schedule, report = split_schedule(whole)
    assert schedule is not None
    assert "timestep" not in [value.name for value in denoiser.graph.inputs]
    assert share[0] < report.weights / report.of_weights < share[1]
    for batch in (1, 3):
        feeds = {t.name: x.numpy() for t, x in zip(inputs, example(batch, generator), strict=True)}
        rows = run_onnx(schedule, {"timestep": feeds["timestep"][:1]})
        made = run_onnx(denoiser, feeds | {name: np.repeat(row, batch, axis=0) for name, row in rows.items()})["output"]
        wanted = run_onnx(whole, feeds)["output"]
        np.testing.assert_allclose(made, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    assert ir.to_proto(denoiser).ByteSize() < ir.to_proto(whole).ByteSize() - 3.5 * report.weights
