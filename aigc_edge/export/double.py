"""Evaluation of torch modules in float64, the reference of every export check, with limited additional memory."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

COLUMNS = 2**28  # maximum bytes of a convolution's unfolded input


class _Double(TorchFunctionMode):
    """Lets a module compute in float64 although its code names float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def swap(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        func = torch.Tensor.double if func is torch.Tensor.float else conv2d if func is torch.conv2d else func
        return func(*map(swap, args), **{key: swap(value) for key, value in (kwargs or {}).items()})


class _Sums(TorchFunctionMode):
    """Records the number of terms of the longest sum in a normalisation or reduction."""

    longest = 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        input = args[0] if args and isinstance(args[0], Tensor) else None
        if input is not None and input.numel():
            if func in (functional.group_norm, torch.group_norm):
                terms = input[0].numel() // args[1]
            elif func in (functional.instance_norm, torch.instance_norm):
                terms = input[0, 0].numel()
            elif func in (functional.layer_norm, functional.rms_norm, torch.layer_norm, torch.rms_norm):
                terms = math.prod(args[1])
            elif func in _REDUCTIONS and isinstance(result, Tensor):
                terms = input.numel() // result.numel()
            else:
                terms = 1
            self.longest = max(self.longest, terms)
        return result


_REDUCTIONS = {getattr(of, name) for of in (torch, Tensor) for name in ("sum", "mean", "var", "std", "norm")}


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """torch.conv2d, sample by sample and in strips of rows where it would take much memory.

    In float64 torch unfolds the whole input, which takes gigabytes in a decoder of 512 × 512 images.
    """
    kernel_height = weight.shape[2]
    row_bytes = weight[0].numel() * groups * input.shape[-1] * input.element_size()  # of unfolded input
    if isinstance(padding, str) or input.ndim != 4 or len(input) * row_bytes * input.shape[-2] <= COLUMNS:
        return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    (vertical_stride, _), (top, left), (spacing, _) = map(_pair, (stride, padding, dilation))
    padded = functional.pad(input, (left, left, top, top))
    rows, window = (
        (padded.shape[-2] - spacing * (kernel_height - 1) - 1) // vertical_stride + 1,
        spacing * (kernel_height - 1) + 1,
    )
    at_once = max(1, COLUMNS // row_bytes)
    samples = []
    for sample in padded.split(1):
        strips = []
        for first in range(0, rows, at_once):
            last = min(first + at_once, rows) - 1
            part = sample[:, :, first * vertical_stride : last * vertical_stride + window]
            strips.append(functional.conv2d(part, weight, bias, stride, 0, dilation, groups))
        samples.append(torch.cat(strips, 2))
    return torch.cat(samples)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value)
    return (both[0], both[-1])


def evaluate(module: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[list[npt.NDArray[np.float64]], int]:
    """The outputs of `module`, which is in `dtype` (float32 or float64), and the number of terms of the longest sum in it."""
    default_dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.no_grad(), _Sums() as sums, _Double() if dtype == torch.float64 else contextlib.nullcontext():
            outputs = module(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
    finally:
        torch.set_default_dtype(default_dtype)
    arrays = [y.double().numpy() for y in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]
    return arrays, sums.longest


@contextlib.contextmanager
def in_double(module: nn.Module) -> Iterator[nn.Module]:
    """The module in float64, converted in place where that is exactly reversible, since a copy would triple the memory."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
        yield copy.deepcopy(module).double()
        return
    try:
        yield module.double()
    finally:
        module.float()
