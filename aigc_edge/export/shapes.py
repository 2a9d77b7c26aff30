"""What of a component's shapes is dynamic in its export, the batch and the image size, and examples at every size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aigc_edge.bundle.sizes import Size, at, follows, number, units
from aigc_edge.bundle.spec import BATCH, ComponentSpec
from aigc_edge.errors import AigcEdgeError

LARGEST_BATCH = 63  # of the trace alone: diffusers' networks branch at 64 samples (to no effect), and would be traced twice
LEAST = (3, 5)  # times what all sides are multiples of is the least size to trace at: 1 and 2 could be taken for other numbers


class Exportable(Protocol):
    """What is exported: a spec, its module, and example inputs of a batch size in the order of the spec.

    Where it serves several image sizes, which its shapes then follow, it has `sizes`, and its example is of the first.
    """

    @property
    def spec(self) -> ComponentSpec: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def example(self) -> Callable[[int, torch.Generator], tuple[Tensor, ...]]: ...


def sizes_of(component: Exportable) -> tuple[Size, ...]:
    """The image sizes that the component serves, the default first; empty where there is one."""
    return tuple(getattr(component, "sizes", ()))


def example_at(component: Exportable, batch: int, generator: torch.Generator, size: Size | None = None) -> tuple[Tensor, ...]:
    """The component's example; what follows the image size drawn anew where that is another."""
    spec, given = component.spec, component.example(batch, generator)
    if len(given) != len(spec.inputs):
        count = len(spec.inputs)
        raise AigcEdgeError(f"component {spec.name!r} has {count} inputs in its spec but its example gives {len(given)}")
    found = []
    for tensor, value in zip(spec.inputs, given, strict=True):
        other = any(map(follows, tensor.shape)) and size is not None
        sides = (int(dim) for dim in at(tensor.shape[1:], size)) if other else ()
        found.append(torch.randn((batch, *sides), generator=generator) if other else value)
    return tuple(found)


def dynamic_shapes(component: Exportable) -> tuple[tuple[dict[int, Any], ...], Size | None]:
    """The dynamic dimensions of each input, and the image size to trace at."""
    sizes, batch = sizes_of(component), torch.export.Dim(BATCH, max=LARGEST_BATCH)
    if not sizes:
        return tuple({0: batch} for _ in component.spec.inputs), None
    unit = units(sizes)
    most = [max(least, *(size[axis] // unit[axis] for size in sizes)) for axis, least in enumerate(LEAST)]
    most[1] += most[0] * unit[0] == most[1] * unit[1]  # a square could hide that the code takes one side for the other
    free = {"H": torch.export.Dim("height", max=most[0]), "W": torch.export.Dim("width", max=most[1])}

    def dim(text: str) -> Any:
        times = int(number(text, unit))
        return free[text[0]] if times == 1 else times * free[text[0]]

    each = [{i: dim(str(d)) for i, d in enumerate(tensor.shape) if follows(d)} for tensor in component.spec.inputs]
    return tuple({0: batch} | dims for dims in each), (most[0] * unit[0], most[1] * unit[1])
