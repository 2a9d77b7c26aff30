"""Specs of denoisers, and random inputs of a network by the roles of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.sizes import Dim
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TIMES = (0.0, 999.0)  # the first and the last timestep of networks that were trained on 1000 of them
NORMAL = SampleInputs()
GUIDANCE = 10.0  # the largest guidance scale is this plus 1


def denoiser_spec(
    shape: Sequence[Dim], conditions: Sequence[TensorSpec] = (), *, classes: bool = False, guidance: bool = False
) -> ComponentSpec:
    """A denoiser of samples [N, *shape]: sample, timestep, class labels, conditions and guidance scale → output."""
    sample = (BATCH, *shape)
    inputs = [TensorSpec("sample", "sample", "float32", sample), TensorSpec("timestep", "timestep", "float32", (BATCH,))]
    inputs += [TensorSpec("class_labels", "class", "int64", (BATCH,))] if classes else []
    inputs += conditions
    inputs += [TensorSpec("guidance", "guidance", "float32", (BATCH,))] if guidance else []
    return ComponentSpec("denoiser", tuple(inputs), (TensorSpec("output", "sample", "float32", sample),))


def random_inputs(
    spec: ComponentSpec,
    batch: int,
    generator: torch.Generator,
    times: Sequence[float] = TIMES,
    classes: int = 0,
    sample_inputs: SampleInputs = NORMAL,
) -> tuple[Tensor, ...]:
    """Inputs in the order of `spec`: timesteps among `times`, class indices below `classes`, samples of `sample_inputs`.

    All others are unit normals.
    """
    import torch

    inputs = []
    for tensor in spec.inputs:
        shape = (batch, *(int(size) for size in tensor.shape[1:]))
        if tensor.role == "class":
            inputs.append(torch.randint(0, classes, shape, generator=generator))
        elif tensor.role == "timestep":
            inputs.append(torch.tensor(times)[torch.randint(0, len(times), shape, generator=generator)])
        elif tensor.role == "guidance":
            inputs.append(1 + GUIDANCE * torch.rand(shape, generator=generator))
        else:
            noise = torch.randn(shape, generator=generator)
            sample = tensor.role == "sample"
            inputs.append(torch.from_numpy(sample_inputs.example(tensor.name, noise.numpy())) if sample else noise)
    return tuple(inputs)
