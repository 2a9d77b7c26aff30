"""The inputs and outputs of a network: names, roles, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from aigc_edge.bundle.sizes import Dim, Size, at

Role = Literal["sample", "timestep", "class", "constant", "condition", "guidance", "tokens"]
BATCH = "N"


class TensorSpec(NamedTuple):
    """One input or output of a component.

    `shape` begins with "N" (the batch, dynamic); the other sizes are numbers or, where a network serves several image sizes, "H",
    "W" or a fraction of them ("H/8"). `role` tells the executor what to feed: "sample" the scaled noisy sample (or the latents of
    a decoder), "timestep" the row's timestep float32 [N], "class" the class index int64 [N], "constant" an output of the schedule
    for the row's timestep, float32 [N, ...], the same for every sample, "condition" an output of a text encoder or an array of
    the caller, float32 [N, ...], the same in every row, "guidance" the row's guidance weight as a number, float32 [N]: a network
    that takes it is never evaluated twice a row, "tokens" token ids int64 [N, L], which only text encoders take.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[Dim, ...]

    def at(self, size: Size | None) -> TensorSpec:
        """The tensor at an image size: its shape is numbers behind the batch."""
        return self._replace(shape=at(self.shape, size))

    def to_json(self) -> dict[str, Any]:
        """The tensor as an item of a manifest's "inputs" or "outputs"."""
        return self._asdict() | {"shape": list(self.shape)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TensorSpec:
        """The tensor of a manifest that the native reader has validated."""
        return TensorSpec(value["name"], value["role"], value["dtype"], shape_of_json(value["shape"]))


class ComponentSpec(NamedTuple):
    """What one network takes and returns, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def at(self, size: Size | None) -> ComponentSpec:
        """The component at an image size; None: it has one alone."""
        return self._replace(inputs=tuple(t.at(size) for t in self.inputs), outputs=tuple(t.at(size) for t in self.outputs))

    def to_json(self) -> dict[str, Any]:
        """The tensors as members of a component."""
        return {"inputs": [t.to_json() for t in self.inputs], "outputs": [t.to_json() for t in self.outputs]}

    def of_role(self, role: Role) -> tuple[TensorSpec, ...]:
        """The inputs of a role."""
        return tuple(tensor for tensor in self.inputs if tensor.role == role)


def shape_of_json(sides: Iterable[str | float]) -> tuple[Dim, ...]:
    """The dimensions of a shape; 2.0 is one."""
    return tuple(side if isinstance(side, str) else int(side) for side in sides)
