"""Survey a torch module by a forward pass of shapes on the meta device, without computing."""

from __future__ import annotations

import copy
import functools
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.preflight.survey import Survey, Weight
from aigc_edge.sources.base import SourceComponent

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH = 2  # per-sample figures are halves; some modules treat a batch of one specially


def survey(part: SourceComponent) -> Survey:
    """The survey of a component, whose module is loaded, then released; raises AigcEdgeError if it cannot run on meta tensors."""
    inputs = [tensor.to("meta") for tensor in part.example(_BATCH, torch.Generator().manual_seed(0))]
    used: list[Weight] = []
    meta = _shapes_of(part.module)
    part.release()
    for name, inner in meta.named_modules():
        inner.register_forward_hook(functools.partial(_record, name, used))
    constants = {id(tensor): tensor for tensor in [*meta.parameters(), *meta.buffers()]}
    live, counter = _Live([*constants.values(), *inputs]), FlopCounterMode(display=False)
    try:
        for mode in (live, counter):  # one after the other: the counter keeps what it counts
            used.clear()
            with torch.no_grad(), mode:
                meta(*inputs)
        counted = list(used)  # the pass below is seen by the same hooks
        timestep_only = _timestep_only(meta, inputs, [tensor.role for tensor in part.spec.inputs])
    except Exception as error:  # whatever the module does that shapes alone cannot answer
        reason = f"has control flow that depends on values ({first_line(error)})"
        raise AigcEdgeError(f"{part.spec.name} {reason}: it can be compiled, but not surveyed") from error
    products = max(counter.get_total_flops() // (2 * _BATCH) - sum(weight.macs for weight in counted), 0)
    inside = {weight.name: weight.elements for weight in counted}
    others = max(sum(tensor.numel() for tensor in constants.values()) - sum(inside.values()), 0)
    weights = tuple(replace(weight, timestep_only=weight.name in timestep_only) for weight in counted)
    return Survey(part.spec.name, weights, others, products, live.peak // _BATCH, live.calls)


def _timestep_only(meta: nn.Module, inputs: Sequence[Tensor], roles: Sequence[str]) -> set[str]:
    """Names of the modules whose outputs depend on the timestep alone, found by the absence of a gradient to other inputs."""
    if "timestep" not in roles:
        return set()
    names: set[str] = set()

    def hook(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(module, nn.Embedding):
            return output.detach().requires_grad_()  # of a class, which is an integer and has no gradient
        if isinstance(output, Tensor) and not output.requires_grad:
            names.add(name)
        return None

    handles = [module.register_forward_hook(functools.partial(hook, name)) for name, module in meta.named_modules()]
    free = [x.detach().requires_grad_(r != "timestep" and x.is_floating_point()) for x, r in zip(inputs, roles, strict=True)]
    with torch.enable_grad():
        meta(*free)
    for handle in handles:
        handle.remove()
    return names


def _shapes_of(module: nn.Module) -> nn.Module:
    """A copy of the module on the meta device; the module itself is unchanged."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(module, memo)


def _record(name: str, used: list[Weight], module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    weight = _weight(name, module, output)
    if weight is not None:
        used.append(weight)


def _weight(name: str, module: nn.Module, output: Any) -> Weight | None:
    if not isinstance(output, Tensor):
        return None
    each = output.numel() // _BATCH
    if isinstance(module, nn.Linear):
        return Weight(name, "Gemm", module.out_features, module.in_features, each * module.in_features)
    if isinstance(module, nn.Embedding):
        return Weight(name, "Gather", module.embedding_dim, module.num_embeddings, 0)
    if isinstance(module, _CONVOLUTIONS):
        inputs = module.weight[0].numel()
        return Weight(name, "Conv", module.out_channels, inputs, each * inputs)
    if isinstance(module, _TRANSPOSED):
        taps = math.prod(module.kernel_size)
        outputs = module.out_channels // module.groups * taps
        taken = each // module.out_channels * module.in_channels // math.prod(module.stride)
        return Weight(name, "ConvTranspose", outputs, module.in_channels, taken * outputs)
    return None


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that exist at the same time, as eager execution frees them, and the calls."""

    def __init__(self, constants: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.peak = self.calls = self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in constants}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self._see(value)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
