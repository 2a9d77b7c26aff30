"""The few things that sampling asks of an array library: NumPy, or torch on any device."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from aigc_edge.errors import AigcEdgeError

DTYPES = ("float32", "float16", "bfloat16")  # that a network may compute in


class NumpyArrays:
    """Arrays in host memory."""

    on_host = True
    kind = "a NumPy array"
    device = None

    def has(self, value: Any) -> bool:
        """Whether `value` is one of these arrays."""
        return isinstance(value, np.ndarray)

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        if dtype == "bfloat16":
            raise AigcEdgeError("NumPy has no bfloat16: give torch tensors, or a network in float32 or float16")
        return np.empty(shape, dtype)

    def give(self, array: np.ndarray) -> Any:
        """A NumPy array as one of these."""
        return array

    def host(self, array: Any) -> np.ndarray:
        """The values in host memory; a view where they are there."""
        return np.asarray(array)

    def dtype_of(self, array: Any) -> str:
        return str(array.dtype)

    def cast(self, array: Any, dtype: str, channels_last: bool) -> Any:
        """Contiguous in that dtype; as it is where it already is. Channels last: [M, C, H, W] whose memory is [M, H, W, C]."""
        if not channels_last:
            return np.ascontiguousarray(array, dtype)
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1), dtype).transpose(0, 3, 1, 2)

    def join(self, parts: list[Any]) -> Any:
        return np.concatenate(parts)

    def expand(self, array: Any, count: int) -> Any:
        """[1, …] or [count, …] as [count, …]."""
        return array if len(array) == count else np.broadcast_to(array, (count, *array.shape[1:]))

    def planes(self, array: Any, shape: tuple[int, ...], channels_last: bool) -> Any:
        """The memory of a contiguous (or channels-last) array in another shape, without a copy."""
        return (array.transpose(0, 2, 3, 1) if channels_last else array).reshape(shape)

    def copy(self, array: Any) -> Any:
        return array.copy()

    def no_gradient(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class TorchArrays:
    """Tensors on the device of the one that is given."""

    kind = "a torch tensor"

    def __init__(self, like: Any) -> None:
        import torch

        self._torch, self.device = torch, like.device
        self.on_host = like.device.type == "cpu"

    def has(self, value: Any) -> bool:
        return isinstance(value, self._torch.Tensor)

    def empty(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self.device)

    def give(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def host(self, array: Any) -> np.ndarray:
        values: np.ndarray = array.detach().cpu().numpy()
        return values

    def dtype_of(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def cast(self, array: Any, dtype: str, channels_last: bool) -> Any:
        layout = self._torch.channels_last if channels_last else self._torch.contiguous_format
        return array.detach().to(self.device, getattr(self._torch, dtype)).contiguous(memory_format=layout)

    def join(self, parts: list[Any]) -> Any:
        return self._torch.cat(parts)

    def expand(self, array: Any, count: int) -> Any:
        return array.expand(count, *array.shape[1:])

    def planes(self, array: Any, shape: tuple[int, ...], channels_last: bool) -> Any:
        return (array.permute(0, 2, 3, 1) if channels_last else array).view(shape)

    def copy(self, array: Any) -> Any:
        return array.clone()

    def no_gradient(self) -> contextlib.AbstractContextManager[Any]:
        context: contextlib.AbstractContextManager[Any] = self._torch.no_grad()
        return context


Arrays = NumpyArrays | TorchArrays


def arrays_of(value: Any) -> Arrays:
    """The array library that `value` belongs to; raises AigcEdgeError for anything else."""
    if isinstance(value, np.ndarray):
        return NumpyArrays()
    torch = sys.modules.get("torch")  # whoever has a tensor has imported torch
    if torch is not None and isinstance(value, torch.Tensor):
        return TorchArrays(value)
    raise AigcEdgeError(f"the latents are a {type(value).__name__}: give a NumPy array or a torch tensor")
