"""Dynamic dimensions of an exported component (batch and image size) and example inputs at every size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.sizes import Size, at, follows, number, units
from aigc_edge.bundle.spec import BATCH, ComponentSpec
from aigc_edge.errors import AigcEdgeError

LARGEST_BATCH = 63  # for tracing only: diffusers' networks branch at 64 samples (to no effect) and would be traced twice
LEAST = (3, 5)  # minimum height and width to trace at, in multiples of the unit; 1 and 2 could be confused with other constants


class Exportable(Protocol):
    """Protocol of components to export: a spec, its module, and example inputs for a batch size, in the order of the spec.

    Components of several image sizes also have `sizes`; their shapes depend on them, and the example has the first size.
    """

    @property
    def spec(self) -> ComponentSpec: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def example(self) -> Callable[[int, torch.Generator], tuple[Tensor, ...]]: ...


def sizes_of(component: Exportable) -> tuple[Size, ...]:
    """The image sizes that the component supports, the default first; empty if there is only one."""
    return tuple(getattr(component, "sizes", ()))


def example_at(component: Exportable, batch: int, generator: torch.Generator, size: Size | None = None) -> tuple[Tensor, ...]:
    """The component's example inputs; inputs that depend on the image size are random tensors of that `size`, if given.

    Samples are those of the component's `inputs`, where it has them.
    """
    spec, example = component.spec, component.example(batch, generator)
    if len(example) != len(spec.inputs):
        count = len(spec.inputs)
        raise AigcEdgeError(f"component {spec.name!r} has {count} inputs in its spec, but its example returns {len(example)}")
    samples, values = getattr(component, "inputs", SampleInputs()), []
    for tensor, value in zip(spec.inputs, example, strict=True):
        resized = any(map(follows, tensor.shape)) and size is not None
        sides = (int(dim) for dim in at(tensor.shape[1:], size)) if resized else ()
        if resized:
            value = torch.randn((batch, *sides), generator=generator)
            value = torch.from_numpy(samples.example(tensor.name, value.numpy())) if tensor.role == "sample" else value
        values.append(value)
    return tuple(values)


def dynamic_shapes(component: Exportable) -> tuple[tuple[dict[int, Any], ...], Size | None]:
    """The dynamic dimensions of each input, and the image size to trace at."""
    sizes, batch = sizes_of(component), torch.export.Dim(BATCH, max=LARGEST_BATCH)
    if not sizes:
        return tuple({0: batch} for _ in component.spec.inputs), None
    unit = units(sizes)
    largest = [max(least, *(size[axis] // unit[axis] for size in sizes)) for axis, least in enumerate(LEAST)]
    largest[1] += largest[0] * unit[0] == largest[1] * unit[1]  # a square would hide swapped sides in the code
    symbols = {"H": torch.export.Dim("height", max=largest[0]), "W": torch.export.Dim("width", max=largest[1])}

    def dim(text: str) -> Any:
        factor = int(number(text, unit))
        return symbols[text[0]] if factor == 1 else factor * symbols[text[0]]

    each = [{i: dim(str(d)) for i, d in enumerate(tensor.shape) if follows(d)} for tensor in component.spec.inputs]
    return tuple({0: batch} | dims for dims in each), (largest[0] * unit[0], largest[1] * unit[1])
