"""Torch modules as the runtime calls networks: float32, one tensor returned, channels first."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.export.layout import NARROW, WIDE, channels_last


class PlainModule(nn.Module):
    """A module whose result is picked by `path` (a key, an attribute or a position; None: it returns a tensor), in float32.

    With `sample_last` it takes, and with `output_last` it returns images [N, H, W, C], which are [N, C, H, W] outside.
    """

    def __init__(self, module: nn.Module, path: str | int | None, sample_last: bool, output_last: bool) -> None:
        super().__init__()
        self.module, self.path, self.sample_last, self.output_last = module, path, sample_last, output_last

    # Not *inputs: torch.export needs a name for each.
    def forward(
        self,
        sample: Tensor,
        input_1: Tensor | None = None,
        input_2: Tensor | None = None,
        input_3: Tensor | None = None,
        input_4: Tensor | None = None,
        input_5: Tensor | None = None,
        input_6: Tensor | None = None,
    ) -> Tensor:
        """The result for a sample and, where the module takes them, timesteps, classes and conditions."""
        inputs = [each for each in (input_1, input_2, input_3, input_4, input_5, input_6) if each is not None]
        value = self.module(sample.permute(WIDE) if self.sample_last else sample, *inputs)
        output: Tensor = (value if self.path is None else _members(value)[self.path]).float()
        return output.permute(NARROW) if self.output_last else output


class Plain(NamedTuple):
    """A module as the runtime calls it, its output on the example, channels first, and whether the example has them last."""

    module: nn.Module
    output: Tensor
    sample_last: bool


def plain(
    name: str, module: nn.Module, sample: Tensor, *inputs: Tensor, layout: str | None = None, result: str | None = None
) -> Plain:
    """The module `name` as the runtime calls it; it is evaluated once, on the example `sample` and its other `inputs`.

    Raises AigcEdgeError where it does not take the example or returns no single tensor of floats.
    """
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
        module = copy.deepcopy(module).float()
    try:
        with torch.no_grad():
            value = module.eval()(sample, *inputs)
    except Exception as error:  # any exception of the module
        takes = " and ".join(str(list(tensor.shape)) for tensor in (sample, *inputs))
        raise AigcEdgeError(f"the {name} does not accept a sample of shape {takes}: {first_line(error)}") from error
    path, output = _picked(name, value, result)
    sample_last, output_last = channels_last([sample.shape, output.shape], layout)
    if path is not None or sample_last or output_last or output.dtype != torch.float32 or _unnamed(module):
        module = PlainModule(module, path, sample_last, output_last).eval()
    return Plain(module, (output.permute(NARROW) if output_last else output).float(), sample_last)


def _unnamed(module: nn.Module) -> bool:
    """Whether the module's inputs have no names: variable arguments, and modules of torch.jit, whose signature is unknown."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
    return any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(module.forward).parameters.values())


def _members(value: Any) -> dict[str | int, Any]:
    """What a module returns in a container, by key or position."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(enumerate(value)) if isinstance(value, (tuple, list)) else {}


def _picked(name: str, value: Any, result: str | None) -> tuple[str | int | None, Tensor]:
    path: str | int | None = None
    if isinstance(value, Tensor):
        output = value
    else:
        members = {str(key): (key, each) for key, each in _members(value).items() if isinstance(each, Tensor)}
        wanted = result if result is not None else next(iter(members)) if len(members) == 1 else None
        if wanted not in members:
            has = f"the tensors {', '.join(members)}" if members else f"a {type(value).__name__}"
            advice = "choose one with --result NAME" if members else "return a tensor [N, C, H, W]"
            raise AigcEdgeError(f"the {name} returns {has}{'' if result is None else f', not {result!r}'}: {advice}")
        path, output = members[str(wanted)]
    if not output.is_floating_point() or output.ndim < 2:
        raise AigcEdgeError(f"the {name} returns {output.dtype} {list(output.shape)}: it must return floats [N, ...]")
    return path, output
