"""The inputs and outputs of a network: names, roles, dtypes and shapes."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

from aigc_edge.bundle.parsing import Value
from aigc_edge.bundle.sizes import Dim, Size, at, follows

Role = Literal["sample", "timestep", "class", "constant", "condition", "guidance", "tokens"]
ROLES: tuple[Role, ...] = get_args(Role)
DTYPES = ("float32", "int64")  # that the runtime feeds
BATCH = "N"
MAX_ELEMENTS = 2**31  # of one sample


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
    def parse(value: Value) -> TensorSpec:
        """The tensor of a manifest; raises BundleError naming the member that is wrong."""
        role, dtype = value["role"], value["dtype"]
        if role.string() not in ROLES:
            raise role.error(f'is "{role.raw}", known roles are {", ".join(ROLES[:-1])} and {ROLES[-1]}')
        if dtype.string() not in DTYPES:
            raise dtype.error(f'is "{dtype.raw}", the runtime feeds float32 and int64')
        return TensorSpec(value["name"].string(), role.raw, dtype.raw, parse_shape(value["shape"], batched=True))


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


def parse_shape(value: Value, *, batched: bool = False) -> tuple[Dim, ...]:
    """A shape of 1 to 8 dimensions, the first of a `batched` one "N"; raises BundleError."""
    items, shape = value.items(), list[Dim]()
    if not 1 <= len(items) <= 8:
        raise value.error("must have 1 to 8 dimensions")
    if batched and items[0].string() != BATCH:
        raise value.error('must begin with "N", the batch')
    for item in items[batched:]:
        if isinstance(item.raw, str) and not follows(item.raw):
            raise item.error(f'is "{item.raw}", it must be a number, "H", "W" or such as "H/8"')
        shape.append(item.raw if isinstance(item.raw, str) else item.integer(1, MAX_ELEMENTS))
    if math.prod(dim for dim in shape if isinstance(dim, int)) > MAX_ELEMENTS:
        raise value.error("has more than 2^31 elements")
    return (BATCH, *shape) if batched else tuple(shape)
